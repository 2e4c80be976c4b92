//! The labs do what they say: their commands are run, and what they promise is compared.
//!
//! In a lab, a block fenced with ```console holds commands behind `$ ` and, under each, what it prints. A line that is
//! `...` stands for any lines, `<something>` inside a line for any text without blanks. Commands of one lab share one
//! shell, so variables last; `coracle` and `kubectl` are those under test, on a cluster of the lab's own.

use crate::alone;
use crate::harness::{Cluster, coracle, timeout, tool};
use libtest_mimic::Trial;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn trials() -> Vec<Trial> {
    vec![alone("labs_do_what_they_say", all)]
}

fn all() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("labs");
    let mut labs: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()).collect();
    labs.retain(|p| p.extension().is_some_and(|e| e == "md"));
    labs.sort();
    assert!(!labs.is_empty(), "no labs in {}", dir.display());
    for lab in labs {
        lab_runs(&lab);
    }
}

/// A command and the lines it should print.
#[derive(Debug, Default)]
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { line: number + 1, command: command.into(), output: Vec::new() })
                }
                (None, Some(step)) if step.command.ends_with('\\') => {
                    step.command.push('\n');
                    step.command.push_str(line);
                }
                (None, Some(step)) => step.output.push(line.into()),
                (None, None) => panic!("line {}: output before any command", number + 1),
            },
            _ => {}
        }
    }
    steps
}

fn lab_runs(lab: &Path) {
    let cluster = Cluster::up("lab", &[]);
    let bin = cluster.data.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(coracle(), bin.join("coracle")).unwrap();
    let kubectl = tool("kubectl");
    if kubectl.is_absolute() {
        std::os::unix::fs::symlink(kubectl, bin.join("kubectl")).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash")
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("CORACLE_NAME", &cluster.name)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    let mut output = BufReader::new(shell.stdout.take().unwrap()).lines();
    writeln!(input, "exec 2>&1").unwrap();
    let text = std::fs::read_to_string(lab).unwrap().replace("--timeout=60s", &timeout());
    for step in steps(&text) {
        writeln!(input, "{}\necho \"--end $?--\"", step.command).unwrap();
        let mut said = Vec::new();
        let status = loop {
            let line = output.next().unwrap_or_else(|| panic!("the shell ended")).unwrap();
            match line.split_once("--end ") {
                Some((rest, status)) => {
                    if !rest.is_empty() {
                        said.push(rest.to_string());
                    }
                    break status.trim_end_matches("--").to_string();
                }
                None => said.push(line),
            }
        };
        let at = format!("{}:{}: {}", lab.display(), step.line, step.command);
        assert_eq!(status, "0", "{at}\n{}", said.join("\n"));
        assert!(
            matches(&step.output, &said),
            "{at}\nshould print\n{}\nbut printed\n{}",
            step.output.join("\n"),
            said.join("\n")
        );
    }
    drop(input);
    shell.wait().unwrap();
}

/// Whether the lines are as promised.
fn matches(want: &[String], got: &[String]) -> bool {
    match want {
        [] => got.is_empty(),
        [dots, rest @ ..] if dots == "..." => (0..=got.len()).any(|skip| matches(rest, &got[skip..])),
        [line, rest @ ..] => got.first().is_some_and(|g| line_matches(line, g)) && matches(rest, &got[1..]),
    }
}

fn line_matches(want: &str, got: &str) -> bool {
    let (want, got): (Vec<&str>, Vec<&str>) = (want.split_whitespace().collect(), got.split_whitespace().collect());
    want.len() == got.len() && want.iter().zip(&got).all(|(w, g)| word_matches(w, g))
}

/// `web-<hash>-<id>` against `web-5d4-x7`.
fn word_matches(want: &str, got: &str) -> bool {
    let Some((before, rest)) = want.split_once('<') else {
        return want == got;
    };
    let Some((_, after)) = rest.split_once('>') else {
        return want == got;
    };
    let Some(tail) = got.strip_prefix(before) else {
        return false;
    };
    (1..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| word_matches(after, &tail[at..]))
}
