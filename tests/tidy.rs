//! The style guide as a test: which room may import which, how long things get, what nobody may call.
//! Reads `src/` as text and knows no crate, so that it builds in a second. What it finds is printed all at once.
use std::fs;
use std::path::{Path, PathBuf};

/// Room → the rooms it may name. A new edge in the architecture is a new word in this table.
const IMPORTS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("sys", &[]),
    ("image", &["sys"]),
    ("net", &["sys"]),
    ("runtime", &["sys"]),
    ("store", &[]),
    ("apiserver", &["api", "store"]),
    ("client", &["api", "apiserver"]),
    ("scheduler", &["api", "client"]),
    ("controllers", &["api", "client"]),
    ("node", &["api", "client", "runtime", "net", "image", "sys"]),
    ("proxy", &["api", "client", "net"]),
    ("dns", &["api", "client", "net"]),
    ("guest", &[]),
    ("lens", &["api", "client", "image", "net", "runtime", "sys"]),
    (
        "daemon",
        &[
            "api",
            "sys",
            "image",
            "net",
            "runtime",
            "apiserver",
            "store",
            "client",
            "scheduler",
            "controllers",
            "node",
            "proxy",
            "dns",
            "lens",
        ],
    ),
    ("cli", &["api", "sys", "image", "client", "daemon", "lens", "guest", "net"]),
];

/// Lines of a file before its tests: more is two files.
const FILE_LINES: usize = 400;
/// Lines of a function: about a screen.
const FUNCTION_LINES: usize = 60;
/// Lines of code of `src/` as a whole: a person can read it. Blank lines and comments, which help with that, and tests
/// do not count; one file's limit counts everything before its tests.
const SOURCE_LINES: usize = 40_000;

/// What nobody may write outside tests: the text, the rooms that may, and what to do instead.
const BANNED: &[(&str, &[&str], &str)] = &[
    (".unwrap()", &[], "return the error, or `expect` with the reason why it cannot happen"),
    ("todo!(", &[], "finish it"),
    ("unimplemented!(", &[], "finish it"),
    ("dbg!(", &[], "use tracing"),
    (" println!(", &["cli", "guest", "lens", "main.rs"], "use tracing; only the command line prints"),
    ("thread::sleep(", &["guest"], "wait on a condition with a deadline"),
    (
        "Command::new(",
        &["runtime", "sys", "cli"],
        "no external program does the job; only our own binary is started: as the shim, or detached",
    ),
    ("SystemTime::now(", &["guest", "image", "runtime", "store", "net", "cli", "daemon"], "time is an argument"),
    ("extern crate", &[], "name the crate in a `use`"),
];

/// Rooms whose code never sees a clock, a socket or a task.
const PURE: &[&str] = &["api"];
const IMPURE_CALLS: &[&str] = &["Timestamp::now(", "Instant::now(", "tokio::", "std::net::Tcp", "std::fs::"];

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut found = Vec::new();
    for file in sources() {
        let Some((_, allowed)) = IMPORTS.iter().find(|(room, _)| *room == file.room) else {
            if !["main.rs", "lib.rs"].contains(&file.room.as_str()) {
                found.push(format!("{}: room {} is not in the table", file.name, file.room));
            }
            continue;
        };
        for (number, line) in file.code() {
            for room in rooms_named(line) {
                if room != file.room && !allowed.contains(&room) {
                    found.push(format!("{}:{number}: {} may not import {room}", file.name, file.room));
                }
            }
        }
    }
    report(found);
}

#[test]
fn only_sys_says_unsafe() {
    let says =
        |line: &str| ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| line.contains(word));
    report(
        lines_where(|file, line| file.room != "sys" && says(line))
            .map(|at| format!("{at}: unsafe belongs into src/sys"))
            .collect(),
    );
}

#[test]
fn unsafe_says_why_it_is_sound() {
    let mut found = Vec::new();
    for file in sources().into_iter().filter(|file| file.room == "sys") {
        let lines: Vec<&str> = file.text.lines().collect();
        for (number, line) in file.code() {
            let reason = (number.saturating_sub(9)..number)
                .filter_map(|at| lines.get(at))
                .any(|line| line.contains("SAFETY") || line.contains("# Safety"));
            if (line.contains("unsafe {") || line.contains("unsafe impl")) && !reason {
                found.push(format!("{}:{number}: no SAFETY line above", file.name));
            }
        }
    }
    report(found);
}

#[test]
fn banned_calls_have_a_better_way() {
    let mut found = Vec::new();
    for (text, rooms, instead) in BANNED {
        found.extend(
            lines_where(|file, line| line.contains(text) && !rooms.contains(&file.room.as_str()))
                .map(|at| format!("{at}: `{text}`: {instead}")),
        );
    }
    for call in IMPURE_CALLS {
        found.extend(
            lines_where(|file, line| PURE.contains(&file.room.as_str()) && line.contains(call))
                .map(|at| format!("{at}: `{call}` in a pure room")),
        );
    }
    report(found);
}

#[test]
fn one_file_a_room_names_the_yaml_crate() {
    let mut files: Vec<(String, String)> = Vec::new();
    for file in sources() {
        if file.code().any(|(_, line)| line.contains("serde_yaml")) {
            files.push((file.room.clone(), file.name.clone()));
        }
    }
    files.sort();
    let twice = files.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    report(twice.map(|pair| format!("{} and {} both name serde_yaml", pair[0].1, pair[1].1)).collect());
}

#[test]
fn files_and_functions_stay_short() {
    let mut found = Vec::new();
    let mut total = 0;
    for file in sources() {
        let lines = file.code().last().map_or(0, |(number, _)| number);
        total += file.code().filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with("//")).count();
        if lines > FILE_LINES {
            found.push(format!("{}: {lines} lines before its tests, {FILE_LINES} are allowed", file.name));
        }
        for (name, at, length) in functions(&file) {
            if length > FUNCTION_LINES {
                found.push(format!("{}:{at}: fn {name} has {length} lines, {FUNCTION_LINES} are allowed", file.name));
            }
        }
    }
    if total > SOURCE_LINES {
        found.push(format!("src/ has {total} lines of code, {SOURCE_LINES} are allowed"));
    }
    report(found);
}

#[test]
fn every_file_says_what_it_is() {
    report(
        sources()
            .into_iter()
            .filter(|file| !file.text.starts_with("//!"))
            .map(|file| format!("{}: no `//!` line at its head", file.name))
            .collect(),
    );
}

struct Source {
    /// Path below the repository.
    name: String,
    /// First directory below `src/`, or the file's own name.
    room: String,
    text: String,
}

impl Source {
    /// Numbered lines before the tests, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let test_file = ["/tests.rs", "_tests.rs"].iter().any(|end| self.name.ends_with(end));
        let tests = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let code = if test_file || self.name.contains("/tests/") { "" } else { &self.text[..tests] };
        let lines = code.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join("src"), &mut paths);
    paths.sort();
    let source = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let room = name.split('/').nth(1).expect("below src").to_owned();
        let text = fs::read_to_string(&path).expect("a readable source file");
        Source { name, room, text }
    };
    paths.into_iter().map(source).collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Rooms a line names as `crate::room` or inside `crate::{a, b::c}`.
fn rooms_named(line: &str) -> Vec<&str> {
    let known = |text: &str| IMPORTS.iter().map(|(room, _)| *room).find(|room| *room == text);
    let first = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().and_then(known);
    line.match_indices("crate::")
        .flat_map(|(at, found)| {
            let rest = &line[at + found.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split(',').filter_map(|item| first(item.trim())).collect::<Vec<_>>(),
                None => first(rest).into_iter().collect(),
            }
        })
        .collect()
}

/// Name, first line and length of each function: from its `fn` to the brace at the same depth (the code is formatted).
fn functions(file: &Source) -> Vec<(String, usize, usize)> {
    let lines: Vec<(usize, &str)> = file.code().collect();
    let mut found = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else {
            continue;
        };
        let closes = |line: &str| {
            line.len() > indent && line.starts_with(&" ".repeat(indent)) && line[indent..].starts_with('}')
        };
        if line.trim_end().ends_with(';') || line.trim_end().ends_with('}') {
            continue;
        }
        let end = lines[index..]
            .iter()
            .find(|(_, line)| closes(line) || (line.len() > indent && line[indent..].starts_with(");")));
        if let Some((end, _)) = end {
            found.push((name.to_owned(), *number, end - number + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    loop {
        match words.next()? {
            "fn" => return words.next()?.split(['(', '<']).next(),
            word if word.starts_with("pub")
                || ["async", "const", "unsafe", "extern", "\"C\"", "crate)"].contains(&word) => {}
            _ => return None,
        }
    }
}

fn lines_where(wanted: impl Fn(&Source, &str) -> bool) -> impl Iterator<Item = String> {
    let mut found = Vec::new();
    for file in sources() {
        found.extend(
            file.code().filter(|(_, line)| wanted(&file, line)).map(|(number, _)| format!("{}:{number}", file.name)),
        );
    }
    found.into_iter()
}

fn report(found: Vec<String>) {
    assert!(found.is_empty(), "{} to tidy up:\n{}", found.len(), found.join("\n"));
}
