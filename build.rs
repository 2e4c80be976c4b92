//! The binary is linked at a fixed address. Position-independent, a static program relocates itself at every start: each
//! shim would then own two megabytes of copied pointers (and take a millisecond longer) instead of sharing the file's.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rustc-link-arg-bins=-static");
}
