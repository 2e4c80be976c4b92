//! Service account tokens: signed, time-limited, and only as alive as the objects they are bound to.
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ApiServer, Identity, registry};
use crate::api::{ApiError, find, meta};

/// Who signs the tokens, and the audience of those that do not say.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The object a token lives and dies with.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) plural: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Of a pod: where it runs.
    pub(super) node: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Private,
}

#[derive(Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
}

#[derive(Serialize, Deserialize, Clone)]
struct Reference {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

/// The keys, and what others need to check our signatures.
pub(super) struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    key_id: String,
    /// The public key as a JSON Web Key set.
    jwks: Value,
}

impl Tokens {
    /// From an EC P-256 private key, PKCS#8 PEM.
    pub(super) fn new(pem: &str) -> Result<Self, ApiError> {
        let pair = KeyPair::from_pem(pem).map_err(ApiError::internal)?;
        let public = pair.public_key_pem();
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info()));
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let (x, y) = pair
            .public_key_raw()
            .get(1..65)
            .ok_or_else(|| ApiError::internal("the token key is not a P-256 key"))?
            .split_at(32);
        let jwks = json!({"keys": [{
            "use": "sig", "kty": "EC", "alg": "ES256", "crv": "P-256", "kid": key_id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]});
        Ok(Self {
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(ApiError::internal)?,
            verifying: DecodingKey::from_ec_pem(public.as_bytes()).map_err(ApiError::internal)?,
            key_id,
            jwks,
        })
    }

    pub(super) fn issuer(&self) -> &'static str {
        ISSUER
    }

    pub(super) fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// A token for `account`.
    pub(super) fn issue(
        &self,
        account: &Value,
        bound: Option<Bound>,
        audiences: &[String],
        seconds: i64,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let (namespace, name) = (meta::namespace(account), meta::name(account));
        let reference = |plural: &str| {
            let bound = bound.as_ref().filter(|b| b.plural == plural)?;
            Some(Reference { name: bound.name.clone(), uid: bound.uid.clone() })
        };
        let node = bound.as_ref().filter(|b| !b.node.is_empty());
        let second = now.as_second();
        let claims = Claims {
            iss: ISSUER.into(),
            sub: format!("{}{namespace}:{name}", super::identity::SERVICE_ACCOUNT),
            aud: audiences.to_vec(),
            exp: second + seconds,
            iat: second,
            nbf: second,
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Private {
                namespace: namespace.into(),
                serviceaccount: Reference { name: name.into(), uid: meta::uid(account).into() },
                pod: reference("pods"),
                secret: reference("secrets"),
                node: node.map(|b| Reference { name: b.node.clone(), uid: String::new() }),
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        encode(&header, &claims, &self.signing).map_err(ApiError::internal)
    }

    /// The claims of a token that we signed, that is in its time and meant for one of `audiences`.
    fn verify(&self, token: &str, audiences: &[&str]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.validate_nbf = true;
        decode::<Claims>(token, &self.verifying, &validation).map(|data| data.claims).ok()
    }
}

impl ApiServer {
    /// Who a bearer token speaks for: `None` if it is not ours, not now, or what it is bound to is gone.
    pub(super) fn token_identity(&self, token: &str, audiences: &[&str]) -> Option<Identity> {
        let claims = self.tokens.verify(token, audiences)?;
        let private = &claims.kubernetes;
        let alive = |plural: &str, reference: &Reference| {
            let kind = find("", "v1", plural)?;
            let key = registry::key(kind, &private.namespace, &reference.name);
            let object = registry::decode(kind, &self.store.get(&key)?).ok()?;
            (meta::uid(&object) == reference.uid).then_some(())
        };
        alive("serviceaccounts", &private.serviceaccount)?;
        for (plural, bound) in [("pods", &private.pod), ("secrets", &private.secret)] {
            if let Some(reference) = bound {
                alive(plural, reference)?;
            }
        }
        let account = &private.serviceaccount;
        let mut identity = Identity::service_account(&private.namespace, &account.name);
        identity.uid = account.uid.clone();
        let mut extra = |key: &str, value: String| {
            let key = format!("authentication.kubernetes.io/{key}");
            identity.extra.insert(key, vec![value]);
        };
        extra("credential-id", format!("JTI={}", claims.jti));
        if let Some(pod) = &private.pod {
            extra("pod-name", pod.name.clone());
            extra("pod-uid", pod.uid.clone());
        }
        if let Some(node) = &private.node {
            extra("node-name", node.name.clone());
        }
        Some(identity)
    }
}
