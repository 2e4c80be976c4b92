//! log, exec, attach, port-forward: find the pod's node and hand the request, upgrade and all, to it.
use axum::body::Body;
use axum::http::{Request, Uri};
use axum::response::Response;
use serde_json::Value;
use tower::ServiceExt;

use super::ApiServer;
use super::path::Query;
use super::route::Operation;
use crate::api::{ApiError, Sub, meta};

impl ApiServer {
    pub(super) async fn connect(&self, op: &Operation, mut request: Request<Body>) -> Result<Response, ApiError> {
        let pod = self.object(op.kind, &op.namespace, &op.name)?;
        let query = Query::parse(request.uri());
        let node = meta::text(&pod, &["spec", "nodeName"]);
        if node.is_empty() {
            let name = &op.name;
            return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let router = self
            .config
            .nodes
            .connect(node)
            .ok_or_else(|| ApiError::internal(format!("node {node:?} of pod {:?} cannot be reached", op.name)))?;
        let (namespace, name) = (&op.namespace, &op.name);
        let path = match op.sub {
            Sub::PortForward => format!("/portForward/{namespace}/{name}"),
            sub => {
                let container = choose_container(&pod, query.get("container"))?;
                let verb = match sub {
                    Sub::Log => "containerLogs",
                    Sub::Attach => "attach",
                    _ => "exec",
                };
                format!("/{verb}/{namespace}/{name}/{container}")
            }
        };
        let uri = renamed(request.uri(), op.sub);
        let target = match uri.as_str() {
            "" => path,
            query => format!("{path}?{query}"),
        };
        *request.uri_mut() =
            target.parse::<Uri>().map_err(|e| ApiError::bad_request(format!("unusable query: {e}")))?;
        // A router never fails; it answers.
        match router.oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

/// The query for the node: `stdin`, `stdout`, `stderr` are called `input`, `output`, `error` there.
fn renamed(uri: &Uri, sub: Sub) -> String {
    let pairs = uri.query().unwrap_or("").split('&');
    let pairs = pairs.filter(|p| !p.is_empty() && !p.starts_with("container="));
    let renamed = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let key = match (sub, key) {
            (Sub::Exec | Sub::Attach, "stdin") => "input",
            (Sub::Exec | Sub::Attach, "stdout") => "output",
            (Sub::Exec | Sub::Attach, "stderr") => "error",
            (_, key) => key,
        };
        format!("{key}={value}")
    });
    renamed.collect::<Vec<_>>().join("&")
}

/// The container asked for, or the only one.
fn choose_container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        let list = meta::list(pod, &["spec", field]).iter();
        list.map(|c| meta::text(c, &["name"]).to_owned()).collect()
    };
    let (own, init) = (names("containers"), names("initContainers"));
    let name = meta::name(pod);
    if !asked.is_empty() {
        let known = own.iter().chain(&init).chain(&names("ephemeralContainers")).any(|n| n == asked);
        return match known {
            true => Ok(asked.to_owned()),
            false => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    match own.as_slice() {
        [only] => Ok(only.clone()),
        several => {
            let mut sentence =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
            if !init.is_empty() {
                sentence += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            Err(ApiError::bad_request(sentence))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_only_container_need_not_be_named() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(choose_container(&one, "").unwrap(), "a");
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            choose_container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(choose_container(&two, "c").unwrap_err().message, "container c is not valid for pod p");
    }

    #[test]
    fn the_node_knows_streams_by_other_names() {
        let uri: Uri = "/x?command=sh&command=-c&stdin=true&stdout=true&tty=true&container=a".parse().unwrap();
        assert_eq!(renamed(&uri, Sub::Exec), "command=sh&command=-c&input=true&output=true&tty=true");
        assert_eq!(renamed(&"/x?follow=true".parse().unwrap(), Sub::Log), "follow=true");
    }
}
