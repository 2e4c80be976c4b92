//! What the tests of all controllers share.
pub(super) mod world;
