//! argv -> shim | guest | command line. The shim comes before everything else: it stays single-threaded and tiny.
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    match first.as_deref().and_then(|word| word.to_str()) {
        Some("shim") => coracle::runtime::shim::main(args.collect()),
        Some("guest") => coracle::guest::main(args),
        _ => coracle::cli::main(),
    }
}
