//! What stays open: port-forward, attach, `run -i`, exec, over WebSockets and over SPDY as older clients speak it.

use crate::harness::{Cluster, Space, pod, run, tool, until};
use crate::{alone, shared};
use libtest_mimic::Trial;
use serde_json::json;
use sha2::Digest;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};

/// kubectl's words for: no WebSockets.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"), ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")];
const MEGABYTE: usize = 1 << 20;

pub fn trials() -> Vec<Trial> {
    vec![
        shared("port_forward_in_a_websocket", |cluster| forward(&cluster.space("forward"), &[])),
        shared("port_forward_over_spdy", |cluster| forward(&cluster.space("forward-spdy"), &SPDY)),
        shared("port_forward_to_a_closed_port_says_why", refused),
        shared("attach_shows_what_comes_and_takes_input", attach),
        shared("run_interactively_is_a_session_with_an_end", |cluster| interactive(&cluster.space("run"), &[])),
        shared("run_interactively_over_spdy", |cluster| interactive(&cluster.space("run-spdy"), &SPDY)),
        shared("exec_over_spdy_and_with_full_pipes", exec),
        alone("attach_ends_with_the_daemon_and_the_container_does_not", crash),
    ]
}

/// A program that runs beside the test, until it is dropped.
struct Beside(Child);

impl Beside {
    fn kubectl(space: &Space, env: &[(&str, &str)], args: &[&str]) -> Beside {
        let mut command = space.cluster.program("kubectl", &space.name);
        command.args(args).envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Beside(command.spawn().unwrap())
    }

    /// Its output, line by line as it comes.
    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().unwrap()).lines().map_while(Result::ok)
    }

    fn type_in(&mut self, text: &str) {
        self.0.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Its complaints, once it has ended by itself.
    fn complaints(mut self) -> String {
        self.0.wait().unwrap();
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.kill().ok(); // it may have ended
        self.0.wait().ok();
    }
}

/// `kubectl port-forward`, and the local port it chose.
fn port_forward(space: &Space, env: &[(&str, &str)], what: &str, port: &str) -> (Beside, u16) {
    let mut kubectl = Beside::kubectl(space, env, &["port-forward", "-v=6", what, &format!(":{port}")]);
    let mut lines = kubectl.lines();
    let line = lines.next().unwrap_or_default();
    let local = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next()?.parse().ok());
    // Whoever closes the pipe ends kubectl at its next word.
    std::thread::spawn(move || lines.count());
    (kubectl, local.unwrap_or_else(|| panic!("{line}")))
}

/// Sends, ends the sending, and reads to the end.
fn talk(port: u16, said: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(said).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    })
}

/// Bytes that do not repeat soon.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn forward(space: &Space, env: &[(&str, &str)]) {
    // The file server listens on the pod's loopback only, where nobody comes from outside.
    let line = "head -c 1048576 /dev/urandom > /tmp/noise; httpd -p 127.0.0.1:8000 -h /tmp; \
                nc -ll -p 7000 -e cat & coracle guest serve";
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
    space.pod("web", json!({"command": ["sh", "-c", line], "readinessProbe": probe}));
    space.kubectl(&["expose", "pod", "web", "--port=80", "--target-port=8080"]).good();
    let get = |port, path: &str| talk(port, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    let (_service, port) = port_forward(space, env, "service/web", "80");
    let said = String::from_utf8(get(port, "/")).unwrap();
    assert!(said.contains("web v1"), "{said}");
    let (_files, port) = port_forward(space, env, "pod/web", "8000");
    let file = space.sh("web", "sha256sum < /tmp/noise").good();
    let sum = |said: &[u8]| {
        let body = said.windows(4).position(|four| four == b"\r\n\r\n").map_or(&said[..0], |at| &said[at + 4..]);
        assert_eq!(body.len(), MEGABYTE);
        hex::encode(sha2::Sha256::digest(body))
    };
    std::thread::scope(|scope| {
        let files: Vec<_> = (0..8).map(|_| scope.spawn(|| get(port, "/noise"))).collect();
        assert!(files.into_iter().all(|said| file.starts_with(&sum(&said.join().unwrap()))));
    });
    let (_echo, port) = port_forward(space, env, "pod/web", "7000");
    let sent = noise(MEGABYTE);
    std::thread::scope(|scope| {
        let echoes: Vec<_> = (0..4).map(|_| scope.spawn(|| talk(port, &sent))).collect();
        assert!(echoes.into_iter().all(|echo| echo.join().unwrap() == sent));
    });
    // Hanging up without an end, many times over, leaves no connection behind.
    for _ in 0..20 {
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"x").unwrap();
    }
    until("the pod's connections to end", || {
        let open = space.sh("web", "grep -c ':1B58 .* 01 ' /proc/net/tcp");
        (open.out.trim() == "0").then_some(())
    });
    assert_eq!(talk(port, b"and on"), b"and on");
}

fn refused(cluster: &Cluster) {
    let space = cluster.space("refused");
    space.pod("web", json!({"command": ["coracle", "guest", "serve"]}));
    let (other, fine) = port_forward(&space, &[], "pod/web", "8080");
    for (env, way) in [(&[][..], "negotiated protocol: portforward.k8s.io"), (&SPDY[..], "101 Switching Protocols")] {
        let (kubectl, port) = port_forward(&space, env, "pod/web", "81");
        assert_eq!(talk(port, b""), b"");
        // kubectl itself gives up at the first error.
        let text = kubectl.complaints();
        assert!(text.contains("error forwarding port 81 to pod") && text.contains("connection refused"), "{text}");
        assert!(text.contains("lost connection to pod"), "{text}");
        assert!(text.contains(way) && !text.contains("fallback"), "{text}");
    }
    assert!(talk(fine, b"GET / HTTP/1.0\r\n\r\n").ends_with(b"web v1\n"));
    drop(other);
    let missing = space.kubectl(&["port-forward", "pod/none", "1:1"]).bad();
    assert!(missing.contains("pods \"none\" not found"), "{missing}");
}

fn attach(cluster: &Cluster) {
    let space = cluster.space("attach");
    let line = "echo before; while read x; do echo got $x; echo warned >&2; done; sleep 1000";
    space.pod("reader", json!({"command": ["sh", "-c", line], "stdin": true}));
    // Twice, for it is not `stdinOnce`.
    for word in ["one", "two"] {
        let mut kubectl = Beside::kubectl(&space, &[], &["attach", "-i", "reader"]);
        kubectl.type_in(&format!("{word}\n"));
        assert_eq!(kubectl.lines().next().unwrap(), format!("got {word}"));
    }
    // What is no whole line comes too, and to a container without an input nothing goes.
    space.pod("dots", json!({"command": ["sh", "-c", "while printf .; do sleep 0.1; done"]}));
    let mut kubectl = Beside::kubectl(&space, &[], &["attach", "-i", "dots"]);
    kubectl.type_in("nobody hears this\n");
    let mut dots = [0; 5];
    kubectl.0.stdout.as_mut().unwrap().read_exact(&mut dots).unwrap();
    assert_eq!(dots, *b".....");
    space.kubectl(&["delete", "pod", "dots", "--grace-period=0", "--force"]).good();
    kubectl.complaints();
    let never = pod("done", json!({"command": ["true"]}), json!({"restartPolicy": "Never"}));
    space.apply(&never.to_string());
    space.wait_value("pod/done", "{.status.phase}", "Succeeded");
    let text = space.kubectl(&["attach", "done"]).bad();
    assert!(text.contains("cannot attach a container in a completed pod"), "{text}");
}

/// `kubectl run` of a pod that goes with the session.
fn run_command<'a>(name: &'a str, program: &[&'a str]) -> Vec<&'a str> {
    let flags = "-i --rm --quiet --restart=Never --image=busybox:1 --image-pull-policy=IfNotPresent \
        --pod-running-timeout=5m --";
    [&["run", name], &flags.split_whitespace().collect::<Vec<_>>()[..], program].concat()
}

fn interactive(space: &Space, env: &[(&str, &str)]) {
    let kubectl = |args: &[&str], input: &str| {
        run(space.cluster.program("kubectl", &space.name).envs(env.iter().copied()).args(args), input)
    };
    let said = kubectl(&run_command("cat", &["cat"]), "one\ntwo").good();
    assert!(said.starts_with("one\ntwo") && !said.starts_with("one\ntwo\n"), "{said}");
    let failed = kubectl(&run_command("fails", &["sh", "-c", "read x; echo got $x; exit 3"]), "x\n");
    assert_eq!((failed.code, failed.out.starts_with("got x\n")), (Some(3), true), "{failed:?}");
    // Through the log's turning over (10 MiB a file), to the last byte; not before kubectl is there, for it would be shown
    // what the last file has; and no more than is kept, for a slow machine's reader may be as far behind.
    let many: String = (1..=600_000).map(|n| format!("{n}\n")).collect();
    let said = kubectl(&run_command("many", &["sh", "-c", "read x; seq 1 600000"]), "now\n").good();
    let same = said.bytes().zip(many.bytes()).take_while(|(a, b)| a == b).count();
    assert!(same == many.len(), "{} of {} bytes, the first {same} as they should be", said.len(), many.len());
    // With a terminal, whose first prompt was there before the session, and whose size changes now and then.
    let line = format!(
        "stty rows 33 cols 99; while sleep 1; do stty -F /dev/tty rows 34; stty -F /dev/tty rows 33; done & \
         {} --kubeconfig {} -n {} run tty -it --rm --restart=Never --image=busybox:1 --image-pull-policy=IfNotPresent \
         --pod-running-timeout=5m -- sh -c 'printf \"name? \"; read x; until stty size 2>/dev/null | grep \"33 99\"; do sleep 0.1; done; echo hello $x'; \
         code=$?; kill $!; exit $code",
        tool("kubectl").display(),
        space.cluster.kubeconfig().display(),
        space.name
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]).envs(env.iter().copied());
    let mut script =
        Beside(script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let (mut said, mut typed) = (Vec::new(), false);
    for byte in BufReader::new(script.0.stdout.take().unwrap()).bytes().map_while(Result::ok) {
        said.push(byte);
        if said.ends_with(b"name? ") && !typed {
            script.type_in("bob\n");
            typed = true;
        }
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("33 99\r\nhello bob\r\n"), "{said}");
    assert!(script.0.wait().unwrap().success());
}

fn exec(cluster: &Cluster) {
    let space = cluster.space("exec-spdy");
    space.pod("box", json!({}));
    let kubectl = |args: &[&str], input: &str| {
        run(space.cluster.program("kubectl", &space.name).envs(SPDY).arg("exec").args(args), input)
    };
    let failed = kubectl(&["box", "--", "sh", "-c", "echo out; echo no >&2; exit 7"], "");
    assert_eq!((failed.code, &*failed.out, failed.err.starts_with("no\n")), (Some(7), "out\n", true), "{failed:?}");
    let text = "x".repeat(MEGABYTE);
    for (env, way) in [(&[][..], "The subprotocol is v5.channel.k8s.io"), (&SPDY[..], "101 Switching Protocols")] {
        // More than pipes hold, both ways at once.
        let mut command = space.cluster.program("kubectl", &space.name);
        let args = ["exec", "-v=6", "-i", "box", "--", "cat"];
        let echoed = run(command.envs(env.iter().copied()).args(args), &text);
        assert!(echoed.out == text && echoed.err.contains(way), "{} bytes: {}", echoed.out.len(), echoed.err);
    }
    let missing = kubectl(&["box", "--", "no-such-program"], "").bad();
    assert!(missing.contains("executable file not found in $PATH"), "{missing}");
}

fn crash() {
    let cluster = Cluster::up("attach", &[]);
    let space = cluster.existing("default");
    let line = "while read x; do echo got $x; done; echo end of input; sleep 1000";
    space.pod("once", json!({"command": ["sh", "-c", line], "stdin": true, "stdinOnce": true}));
    space.pod("many", json!({"command": ["sh", "-c", line], "stdin": true}));
    let sessions = ["once", "many"].map(|name| {
        let mut kubectl = Beside::kubectl(&space, &[], &["attach", "-i", name]);
        kubectl.type_in("a\n");
        assert_eq!(kubectl.lines().next().unwrap(), "got a");
        kubectl
    });
    cluster.kill_daemon();
    sessions.into_iter().for_each(|session| drop(session.complaints()));
    cluster.start(&[]);
    for (name, log) in [("once", "got a\nend of input\n"), ("many", "got a\n")] {
        assert_eq!(space.value(&format!("pod/{name}"), "{.status.containerStatuses[0].restartCount}"), "0");
        assert_eq!(space.kubectl(&["logs", name]).good(), log);
    }
    let mut kubectl = Beside::kubectl(&space, &[], &["attach", "-i", "many"]);
    kubectl.type_in("b\n");
    assert_eq!(kubectl.lines().next().unwrap(), "got b");
}
