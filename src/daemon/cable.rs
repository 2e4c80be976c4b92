//! What a node's cut link does to its talk with the API. The link itself is a veth pair; but the nodes of this host hand
//! their requests to the API server as values, which no cut veth stops. So requests and answers pass through here.
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::watch;

/// Carries what it joins, unless it is cut; what is under way at the cut is lost.
#[derive(Clone)]
pub struct Cable(watch::Sender<bool>);

impl Cable {
    /// A whole one.
    pub fn new() -> Cable {
        Cable(watch::Sender::new(true))
    }

    /// Cuts it, or joins it again.
    pub fn set(&self, whole: bool) {
        self.0.send_replace(whole);
    }

    /// The router at the other end.
    pub fn to(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), carry))
    }

    /// Ends when the cable is cut.
    fn cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut state = self.0.subscribe();
        async move {
            // Without a sender nobody can cut it any more.
            if state.wait_for(|whole| !whole).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn carry(State(cable): State<Cable>, request: Request, next: Next) -> Response {
    tokio::select! {
        biased;
        () = cable.cut() => unreachable(),
        answer = next.run(request) => {
            answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(cable.cut()))))
        }
    }
}

fn unreachable() -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "reason": "ServiceUnavailable",
        "message": "no route to the API server: the node's link is cut",
    });
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(status)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_cut_ends_what_is_under_way_and_refuses_what_comes() {
        let first = || futures::stream::once(async { Ok::<_, std::io::Error>("x") });
        let endless = move || Body::from_stream(first().chain(futures::stream::pending()));
        let cable = Cable::new();
        let router = cable.to(Router::new().route("/", get(move || async move { endless() })));
        let ask = || router.clone().oneshot(Request::new(Body::empty()));
        let answer = ask().await.unwrap();
        let read = tokio::spawn(axum::body::to_bytes(answer.into_body(), 10));
        cable.set(false);
        assert_eq!(ask().await.unwrap().status(), 503);
        assert!(read.await.unwrap().unwrap().len() <= 1);
        cable.set(true);
        assert_eq!(ask().await.unwrap().status(), 200);
    }
}
