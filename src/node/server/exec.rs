//! `kubectl exec`: a program's streams, over what `remote` speaks.
use super::{
    Refused,
    remote::{Keyboard, Remote, STDERR, STDOUT, Upgrade, Wanted},
};
use crate::{
    node::Node,
    runtime::{self, Exec, ExecSpec, ExitStatus},
};
use axum::{
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// How long the rest of a program's output may take to come out of a pipe after its end.
const DRAIN: Duration = Duration::from_millis(100);
/// Bytes of one message of output.
const CHUNK: usize = 32 << 10;

pub async fn exec(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let uid = match node.find_container(&namespace, &name, &container) {
        Ok((uid, _)) => uid,
        Err(refused) => return refused.into_response(),
    };
    let (program, wanted) = parse(&query.unwrap_or_default(), &container);
    if program.args.is_empty() {
        return Refused::bad_request("you must specify at least 1 command for the container").into_response();
    }
    // Started before the upgrade, so that what cannot start is an error of the request.
    let started = node.runtime.exec(&uid, &program).await;
    match started {
        Ok(exec) => upgrade.serve(wanted, move |remote| serve(remote, exec)),
        Err(error) if is_not_running(&error) => Refused::no_container(&container).into_response(),
        // kubectl prints what comes on the error channel, so that is where it goes.
        Err(error) => upgrade.serve(wanted, async move |remote| remote.close(&failure(&error)).await),
    }
}

/// Whether the container is not there to be talked to.
pub fn is_not_running(error: &runtime::Error) -> bool {
    matches!(error, runtime::Error::NoContainer(_) | runtime::Error::NoSandbox(_))
}

/// `command=a&command=b&stdin=true&tty=true`
fn parse(query: &str, container: &str) -> (ExecSpec, Wanted) {
    let pairs = pairs(query);
    let wanted = Wanted::of(&pairs);
    let args = pairs.into_iter().filter(|(key, _)| key == "command").map(|(_, value)| value).collect();
    let (stdin, tty) = (wanted.stdin, wanted.tty);
    (ExecSpec { container: container.to_string(), args, stdin, tty, ..ExecSpec::default() }, wanted)
}

/// The decoded pairs of a query string; repeated keys stay apart.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut out = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'+' => out.push(b' '),
                b'%' => {
                    let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                    out.extend(u8::from_str_radix(&hex, 16).ok());
                }
                other => out.push(other),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

async fn serve(mut remote: Remote, mut exec: Exec) {
    let mut keyboard = Keyboard::new(exec.stdin.take(), exec.resizer());
    let mut stdout = Some(std::mem::replace(&mut exec.stdout, Box::new(tokio::io::empty())));
    let mut stderr = exec.stderr.take();
    let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
    let status = loop {
        tokio::select! {
            there = keyboard.turn(&mut remote) => if !there { return },
            n = read(&mut stdout, &mut out) => match n {
                0 => stdout = None,
                n => if !remote.say(STDOUT, &out[..n]).await { return },
            },
            n = read(&mut stderr, &mut err) => match n {
                0 => stderr = None,
                n => if !remote.say(STDERR, &err[..n]).await { return },
            },
            status = exec.wait() => break status,
        }
    };
    // What the program wrote is in the pipes by now; a child of it that keeps them open is not waited for.
    for (channel, stream) in [(STDOUT, &mut stdout), (STDERR, &mut stderr)] {
        if stream.is_none() {
            continue;
        }
        while let Ok(n @ 1..) = timeout(DRAIN, read(stream, &mut out)).await {
            if !remote.say(channel, &out[..n]).await {
                return;
            }
        }
    }
    let status = match status {
        Ok(status) => ended(status),
        Err(error) => failure(&error),
    };
    remote.close(&status).await;
}

/// Reads some; 0 at the end and after an error. Waits for ever on a stream that is not there.
async fn read(stream: &mut Option<Box<dyn AsyncRead + Send + Unpin>>, buffer: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// The status of a session that ended well.
pub fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn ended(status: ExitStatus) -> Value {
    match status.code {
        0 => success(),
        code => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    }
}

fn failure(error: &runtime::Error) -> Value {
    match error {
        runtime::Error::Start { message, .. } => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: error executing command in container: {message}"),
        }),
        other => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {other}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let (spec, wanted) = parse("command=sh&command=-c&command=echo+a%26b&stdin=true&tty=false&stdout=true", "c");
        assert_eq!(spec.args, ["sh", "-c", "echo a&b"]);
        assert_eq!((spec.stdin, spec.tty), (true, false));
        assert_eq!(wanted, Wanted { stdin: true, stdout: true, stderr: false, tty: false });
    }
}
