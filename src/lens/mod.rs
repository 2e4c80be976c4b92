//! What stands behind an object.
pub mod doctor;
pub mod xray;
