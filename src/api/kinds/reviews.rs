//! Questions to the API server that are asked by creating an object which is never stored.
use super::check::At;
use super::{Kind, Strategy, Sub, common};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1 as authorization;
use serde_json::Value;

/// The rows.
pub fn rows() -> Vec<Kind> {
    let rows = [
        Kind::row::<SelfSubjectReview>(),
        Kind::row::<TokenReview>(),
        Kind::row::<authorization::LocalSubjectAccessReview>(),
        Kind::row::<authorization::SelfSubjectAccessReview>(),
        Kind::row::<authorization::SelfSubjectRulesReview>(),
        Kind::row::<authorization::SubjectAccessReview>(),
    ];
    let strategy = Strategy { validate: rules, ..Strategy::PLAIN };
    rows.into_iter().map(|row| Kind { verbs: common::CREATE_ONLY, strategy, ..row }).collect()
}

/// An access review asks about exactly one thing, and about somebody.
fn rules(review: &At, _: Option<&Value>, _: Sub) {
    let (spec, kind) = (review.child("spec"), review.text("kind"));
    if kind == "TokenReview" {
        spec.needs("token");
    }
    if !kind.ends_with("AccessReview") {
        return;
    }
    if spec.get("resourceAttributes").is_some() == spec.get("nonResourceAttributes").is_some() {
        spec.invalid("exactly one of nonResourceAttributes or resourceAttributes must be specified");
    }
    let nobody = spec.text("user").is_empty() && spec.list("groups").is_empty();
    if nobody && !kind.starts_with("Self") {
        spec.child("user").invalid_as("", "at least one of user or group must be specified");
    }
}
