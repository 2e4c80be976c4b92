//! Errors as kubectl words them.
use std::fmt;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::door::status;

/// What went wrong with some of several objects; the others are done all the same.
#[derive(Debug, Default)]
pub struct Failures(Vec<anyhow::Error>);

impl Failures {
    /// Keeps the error, if it is one.
    pub fn note(&mut self, result: anyhow::Result<()>) {
        self.0.extend(result.err());
    }

    /// The end of a verb: all that went wrong, or nothing.
    pub fn end(mut self) -> anyhow::Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => Err(anyhow::Error::new(self)),
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|error| of_server(error).unwrap_or_else(|| plain(error))).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Failures {}

/// The line (or lines) for standard error.
pub fn words(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Failures>() {
        Some(many) => many.to_string(),
        None => of_server(error).unwrap_or_else(|| format!("error: {}", plain(error).trim_start_matches("error: "))),
    }
}

/// Says what is wrong with a command line: of an unknown flag as kubectl does, of anything else in clap's words. Help is
/// no error.
pub fn usage(error: &clap::Error) -> ExitCode {
    match unknown_flag(error) {
        Some(text) => eprintln!("error: {text}"),
        None => drop(error.print()),
    }
    ExitCode::from(u8::from(error.use_stderr()))
}

fn unknown_flag(error: &clap::Error) -> Option<String> {
    let flag = error.get(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument);
    let (Some(ContextValue::String(flag)), Some(usage)) = (flag, error.get(ContextKind::Usage)) else { return None };
    let what = match flag.strip_prefix('-')? {
        long if long.starts_with('-') => format!("unknown flag: {flag}"),
        short => format!("unknown shorthand flag: '{short}' in {flag}"),
    };
    // `Usage: coracle rollout status [OPTIONS] …`
    let usage = usage.to_string();
    let words = usage.split(' ').skip(1).take_while(|word| word.starts_with(char::is_alphabetic));
    Some(format!("{what}\nSee '{} --help' for usage.", words.collect::<Vec<_>>().join(" ")))
}

/// Without saying that it is one.
pub fn plain(error: &anyhow::Error) -> String {
    status(error).map_or_else(|| format!("{error:#}"), |status| status.message.clone())
}

/// An error that is a Status.
fn of_server(error: &anyhow::Error) -> Option<String> {
    let status = status(error)?;
    if let Some(details) = status.details.as_ref().filter(|_| status.reason == "Invalid") {
        return Some(invalid(details, &status.message));
    }
    let reason = if status.reason.is_empty() { String::new() } else { format!(" ({})", status.reason) };
    // Contexts above the Status say what was being done, as in `error when creating "web.yaml"`.
    let doing: Vec<String> =
        error.chain().take_while(|cause| !cause.is::<kube::Error>()).map(|cause| format!("{cause}: ")).collect();
    Some(format!("Error from server{reason}: {}{}", doing.concat(), status.message))
}

/// `The Deployment "web" is invalid: spec.x: …`, one line a cause when there are several.
fn invalid(details: &kube::core::response::StatusDetails, message: &str) -> String {
    let head = format!("The {} {:?} is invalid", details.kind, details.name);
    let causes: Vec<String> = details.causes.iter().map(|it| format!("{}: {}", it.field, it.message)).collect();
    match causes.as_slice() {
        [] => format!("{head}: {message}"),
        [cause] => format!("{head}: {cause}"),
        several => format!("{head}: \n* {}", several.join("\n* ")),
    }
}
