//! Keys and certificates of a cluster: made once, kept in files of mode 0600, made again when they no longer fit.
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;

/// How long certificates are valid. Nobody renews a laptop's cluster by hand, so they outlive it.
const YEARS: i32 = 10;
/// A certificate is made again when it has less than this left.
const RENEW_DAYS: i64 = 30;

/// Why keys or certificates could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Reading or writing a file failed.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// A file is not what it should be, or a certificate could not be made.
    #[error("{0}: {1}")]
    Bad(&'static str, String),
}

fn bad<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> PkiError {
    move |error| PkiError::Bad(what, error.to_string())
}

/// Certificate (chain) and private key, both PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The cluster's keys and certificates, loaded.
pub struct Pki {
    ca: Credential,
    server: Credential,
    admin: Credential,
    tokens: String,
}

/// The names the API server answers to inside the cluster, whatever its addresses.
const SERVER_NAMES: &[&str] = &[
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

impl Pki {
    /// Loads what is in `dir` (made, mode 0700, if missing) and makes what is missing, expiring, or — for the serving
    /// certificate — not valid for every one of `addresses` (127.0.0.1 is implied).
    pub fn ensure(dir: &Path, addresses: &[IpAddr], now: Timestamp) -> Result<Self, PkiError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| PkiError::File(dir.to_owned(), e))?;
        let ca = kept(dir, "ca", |_| Ok(true), || make_ca(now))?;
        let local = IpAddr::from([127, 0, 0, 1]);
        let wanted: Vec<IpAddr> = std::iter::once(local).chain(addresses.to_vec()).collect();
        let server = kept(dir, "apiserver", |found| fits(found, &wanted, now), || make_server(&ca, &wanted, now))?;
        let make_admin = || make_client(&ca, "kubernetes-admin", super::identity::MASTERS, now);
        let admin = kept(dir, "admin", |found| fits(found, &[], now), make_admin)?;
        let tokens = match read(&dir.join("sa.key"))? {
            Some(key) => key,
            None => {
                let key = new_key()?.serialize_pem();
                write(&dir.join("sa.key"), &key)?;
                key
            }
        };
        Ok(Self { ca, server, admin, tokens })
    }

    /// The certificate authority's certificate, PEM.
    pub fn ca_certificate(&self) -> &str {
        &self.ca.certificate
    }

    /// The administrator's client certificate and key.
    pub fn admin(&self) -> &Credential {
        &self.admin
    }

    /// A client certificate for `user` in `group`.
    pub fn client(&self, user: &str, group: &str, now: Timestamp) -> Result<Credential, PkiError> {
        make_client(&self.ca, user, group, now)
    }

    /// The key that signs service account tokens: an EC P-256 private key, PKCS#8 PEM.
    pub fn token_key(&self) -> &str {
        &self.tokens
    }

    /// The TLS configuration of the API's listener: our certificate, client certificates of our authority optional.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let mut roots = RootCertStore::empty();
        let authority =
            CertificateDer::from_pem_slice(self.ca.certificate.as_bytes()).map_err(bad("CA certificate"))?;
        roots.add(authority).map_err(bad("CA certificate"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(bad("client certificate verifier"))?;
        let chain = CertificateDer::pem_slice_iter(self.server.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(bad("serving certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(self.server.key.as_bytes()).map_err(bad("serving key"))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad("TLS versions"))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(bad("serving certificate"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A kubeconfig (JSON is YAML) for the administrator of `cluster`, whose API is at `server` (`https://host:port`).
    pub fn kubeconfig(&self, cluster: &str, server: &str) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let context = format!("coracle-{cluster}");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": {
                "server": server,
                "certificate-authority-data": STANDARD.encode(&self.ca.certificate),
            }}],
            "users": [{"name": context, "user": {
                "client-certificate-data": STANDARD.encode(&self.admin.certificate),
                "client-key-data": STANDARD.encode(&self.admin.key),
            }}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "current-context": context,
        });
        format!("{config:#}\n")
    }
}

fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad("key"))
}

/// Valid from the day before `now` (clocks differ) for [`YEARS`].
fn params(common_name: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let today = now.to_zoned(TimeZone::UTC).date();
    let ymd = |date: jiff::civil::Date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(date.year().into(), month, day)
    };
    params.not_before = ymd(today.saturating_sub(1.day()));
    params.not_after = ymd(today.saturating_add(YEARS.years()));
    params.use_authority_key_identifier_extension = true;
    params
}

fn make_ca(now: Timestamp) -> Result<Credential, PkiError> {
    let mut params = params("coracle-ca", now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = new_key()?;
    let certificate = params.self_signed(&key).map_err(bad("CA certificate"))?;
    Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn sign(mut params: CertificateParams, ca: &Credential) -> Result<Credential, PkiError> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let authority = KeyPair::from_pem(&ca.key).map_err(bad("CA key"))?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, authority).map_err(bad("CA certificate"))?;
    let key = new_key()?;
    let certificate = params.signed_by(&key, &issuer).map_err(bad("certificate"))?;
    Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn make_server(ca: &Credential, ips: &[IpAddr], now: Timestamp) -> Result<Credential, PkiError> {
    let mut params = params("kube-apiserver", now);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in SERVER_NAMES {
        let name = (*name).try_into().map_err(bad("server name"))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let ips = ips.iter().map(|ip| SanType::IpAddress(*ip));
    params.subject_alt_names.extend(ips);
    sign(params, ca)
}

fn make_client(ca: &Credential, user: &str, group: &str, now: Timestamp) -> Result<Credential, PkiError> {
    let mut params = params(user, now);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(params, ca)
}

/// Whether the certificate is valid for a while yet, and for every one of `addresses`.
fn fits(found: &Credential, addresses: &[IpAddr], now: Timestamp) -> Result<bool, PkiError> {
    let der = CertificateDer::from_pem_slice(found.certificate.as_bytes()).map_err(bad("stored certificate"))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(bad("stored certificate"))?;
    let left = certificate.validity().not_after.timestamp() - now.as_second();
    if left < RENEW_DAYS * 24 * 3600 {
        return Ok(false);
    }
    let names = certificate.subject_alternative_name().map_err(bad("stored certificate"))?;
    let has = |wanted: &IpAddr| {
        let octets = match wanted {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        names
            .iter()
            .flat_map(|n| &n.value.general_names)
            .any(|n| matches!(n, x509_parser::extensions::GeneralName::IPAddress(ip) if *ip == octets))
    };
    Ok(addresses.iter().all(has))
}

/// `<name>.crt` and `<name>.key`; `None` unless both are there.
fn load(dir: &Path, name: &str) -> Result<Option<Credential>, PkiError> {
    let certificate = read(&dir.join(format!("{name}.crt")))?;
    let key = read(&dir.join(format!("{name}.key")))?;
    Ok(certificate.zip(key).map(|(certificate, key)| Credential { certificate, key }))
}

/// What is in the files if it is good, or else what is made and put there.
fn kept(
    dir: &Path,
    name: &str,
    good: impl FnOnce(&Credential) -> Result<bool, PkiError>,
    make: impl FnOnce() -> Result<Credential, PkiError>,
) -> Result<Credential, PkiError> {
    if let Some(found) = load(dir, name)?
        && good(&found)?
    {
        return Ok(found);
    }
    let made = make()?;
    save(dir, name, &made)?;
    Ok(made)
}

fn save(dir: &Path, name: &str, credential: &Credential) -> Result<(), PkiError> {
    write(&dir.join(format!("{name}.key")), &credential.key)?;
    write(&dir.join(format!("{name}.crt")), &credential.certificate)
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PkiError::File(path.to_owned(), error)),
    }
}

/// Whole or not at all, readable by us only.
fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let fresh = path.with_extension("new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|e| PkiError::File(path.to_owned(), e))
}
