//! The store against a model, through crashes, and against damaged files.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn put(text: impl Into<String>) -> impl FnOnce(Revision) -> Change {
    let text = text.into();
    move |_| Change::Put(Bytes::from(text))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn open(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

fn content(range: &Range) -> BTreeMap<String, Bytes> {
    let pair = |e: &Entry| (e.key().to_owned(), e.value().clone());
    range.entries.iter().map(pair).collect()
}

#[tokio::test]
async fn writes_compare_before_they_swap() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let made = store.write("/a", Expect::Absent, put("1")).await.unwrap();
    assert_eq!((made.revision(), made.created()), (1, 1));
    let again = store.write("/a", Expect::Absent, put("2")).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));
    let changed = store.write("/a", Expect::Revision(1), put("2")).await.unwrap();
    assert_eq!((changed.revision(), changed.created()), (2, 1));
    let stale = store.write("/a", Expect::Revision(1), put("3")).await;
    assert!(matches!(stale, Err(StoreError::Conflict(e)) if e.revision() == 2));
    let missing = store.write("/b", Expect::Revision(1), put("3")).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
    let gone = |_| Change::Delete(Bytes::from_static(b"last"));
    store.write("/a", Expect::Revision(2), gone).await.unwrap();
    assert!(store.get("/a").is_none());
    assert_eq!(store.revision(), 3);
}

#[tokio::test]
async fn a_key_too_long_is_refused_to_its_writer_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = store.write(&"k".repeat(MAX_KEY + 1), Expect::Absent, put("1")).await;
    assert!(matches!(refused, Err(StoreError::LongKey)));
    let longest = "k".repeat(MAX_KEY);
    assert_eq!(store.write(&longest, Expect::Absent, put("1")).await.unwrap().revision(), 1);
    drop(store);
    assert!(open(dir.path()).get(&longest).is_some());
}

#[tokio::test]
async fn of_many_writers_that_expect_the_same_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let writers = (0..50).map(|n| {
        let store = store.clone();
        async move { store.write("/a", Expect::Absent, put(n.to_string())).await.is_ok() }
    });
    let won = futures::future::join_all(writers).await;
    assert_eq!(won.iter().filter(|w| **w).count(), 1);
    assert_eq!(store.revision(), 1);
}

#[tokio::test]
async fn a_conflict_is_answered_when_what_it_conflicts_with_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..50u64 {
        let key = format!("/{n}");
        let (first, second) = tokio::join!(store.write(&key, Expect::Absent, put("first")), async {
            let refused = store.write(&key, Expect::Absent, put("second")).await;
            (refused.is_err(), store.get(&key).is_some())
        });
        first.unwrap();
        assert_eq!(second, (true, true));
    }
}

#[tokio::test]
async fn a_watch_resumes_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 1..=5u64 {
        let expect = if n == 1 { Expect::Absent } else { Expect::Revision(n - 1) };
        store.write("/x/a", expect, put(n.to_string())).await.unwrap();
    }
    store.write("/y/a", Expect::Absent, put("other")).await.unwrap();
    let mut watch = store.watch("/x/", 3).unwrap();
    assert_eq!(watch.next().await.unwrap().revision(), 4);
    let event = watch.next().await.unwrap();
    assert_eq!((event.revision(), event.previous.unwrap().revision()), (5, 4));
    assert!(matches!(watch.try_next(), Ok(None)));
    store.write("/x/b", Expect::Absent, put("new")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().entry.key(), "/x/b");
    assert!(matches!(store.watch("/x/", 99), Err(StoreError::Future { .. })));
}

#[tokio::test]
async fn a_watcher_that_sleeps_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch("/", 0).unwrap();
    let writes = (0..=WATCH_QUEUE).map(|n| {
        let store = store.clone();
        async move { store.write(&format!("/{n}"), Expect::Absent, put("x")).await }
    });
    futures::future::try_join_all(writes).await.unwrap();
    let mut seen = 0;
    while watch.next().await.is_ok() {
        seen += 1;
    }
    assert_eq!(seen, WATCH_QUEUE);
}

#[tokio::test]
async fn history_is_bounded_on_disk_and_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let extra = 200;
    for round in 0..8 {
        let writes = (0..(HISTORY_EVENTS + extra) / 8).map(|n| {
            let store = store.clone();
            async move { store.write(&format!("/{round}/{n}"), Expect::Absent, put("x")).await }
        });
        futures::future::try_join_all(writes).await.unwrap();
    }
    let oldest = store.revision() - HISTORY_EVENTS as u64;
    assert!(matches!(store.watch("/", 1), Err(StoreError::TooOld { .. })));
    assert!(store.range("/", None, 0, Some(oldest)).is_ok());
    assert!(store.range("/", None, 0, Some(oldest - 1)).is_err());
    let before = content(&store.range("/", None, 0, None).unwrap());
    drop(store);
    let store = open(dir.path());
    assert_eq!(content(&store.range("/", None, 0, None).unwrap()), before);
    assert!(store.range("/", None, 0, Some(oldest)).is_ok());
    assert!(matches!(store.watch("/", 1), Err(StoreError::TooOld { .. })));
}

#[tokio::test]
async fn secrets_are_not_readable_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let key = "/registry/secrets/default/s";
    store.write(key, Expect::Absent, put("correct horse")).await.unwrap();
    store.write("/registry/configmaps/default/c", Expect::Absent, put("battery staple")).await.unwrap();
    drop(store);
    let file = std::fs::read(dir.path().join("state.redb")).unwrap();
    let holds = |needle: &[u8]| file.windows(needle.len()).any(|w| w == needle);
    assert!(!holds(b"correct horse"));
    assert!(holds(b"battery staple"));
    let store = open(dir.path());
    assert_eq!(store.get(key).unwrap().value(), "correct horse");
    drop(store);
    std::fs::write(dir.path().join("secrets.key"), [7; 32]).unwrap();
    let error = Store::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("the key file does not open this secret"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..100 {
        let value = format!("{n}").repeat(100);
        store.write(&format!("/{n}"), Expect::Absent, put(value)).await.unwrap();
    }
    drop(store);
    let path = dir.path().join("state.redb");
    let good = std::fs::read(&path).unwrap();
    let middle = good.windows(20).position(|w| w == b"77777777777777777777").unwrap();
    let mut flipped = good.clone();
    flipped[middle] ^= 1;
    let damages: [(&str, Vec<u8>); 4] = [
        ("a flipped bit", flipped),
        ("a truncated file", good[..good.len() / 2].to_vec()),
        ("an empty file", Vec::new()),
        ("another file", b"hello, I am no database".repeat(1000)),
    ];
    for (what, damaged) in damages {
        std::fs::write(&path, &damaged).unwrap();
        let error = Store::open(dir.path()).err().unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
        assert!(std::fs::read(&path).unwrap() == damaged, "{what} was overwritten");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(open(dir.path()).revision(), 100);
}

#[tokio::test]
async fn two_processes_cannot_have_the_same_store() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
}

/// What the model test does.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// With an expectation that does not hold.
    Stale(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        3 => (0..6u8).prop_map(Step::Delete),
        1 => (0..6u8).prop_map(Step::Stale),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// After any steps, every past revision reads as it was, pages add up, and watches replay exactly what happened.
    #[test]
    fn the_store_is_a_map_with_a_past(steps in steps()) {
        runtime().block_on(async move {
            let dir = tempfile::tempdir().unwrap();
            let mut store = open(dir.path());
            // The model: the whole map at every revision.
            let mut past: Vec<BTreeMap<String, Bytes>> = vec![BTreeMap::new()];
            for step in steps {
                let mut now = past.last().unwrap().clone();
                let current = |store: &Store, k: u8| store.get(&format!("/k/{k}"));
                match step {
                    Step::Reopen => {
                        drop(store);
                        store = open(dir.path());
                        continue;
                    }
                    Step::Stale(k) => {
                        let key = format!("/k/{k}");
                        let expect = Expect::Revision(u64::MAX);
                        assert!(store.write(&key, expect, put("x")).await.is_err());
                        continue;
                    }
                    Step::Put(k, v) => {
                        let key = format!("/k/{k}");
                        let expect = current(&store, k).map_or(Expect::Absent, |e| Expect::Revision(e.revision()));
                        store.write(&key, expect, put(v.to_string())).await.unwrap();
                        now.insert(key, Bytes::from(v.to_string()));
                    }
                    Step::Delete(k) => {
                        let Some(entry) = current(&store, k) else { continue };
                        let last = entry.value().clone();
                        store.write(entry.key(), Expect::Revision(entry.revision()), |_| Change::Delete(last)).await.unwrap();
                        now.remove(entry.key());
                    }
                }
                past.push(now);
            }
            check(&store, &past).await;
        });
    }
}

async fn check(store: &Store, past: &[BTreeMap<String, Bytes>]) {
    let newest = past.len() as u64 - 1;
    assert_eq!(store.revision(), newest);
    for (revision, wanted) in past.iter().enumerate() {
        let at = Some(revision as u64);
        assert_eq!(&content(&store.range("/k/", None, 0, at).unwrap()), wanted);
        let (mut paged, mut after) = (BTreeMap::new(), None::<String>);
        loop {
            let page = store.range("/k/", after.as_deref(), 2, at).unwrap();
            paged.extend(content(&page));
            after = page.entries.last().map(|e| e.key().to_owned());
            if page.remaining == 0 {
                break;
            }
        }
        assert_eq!(&paged, wanted);
        let mut replayed = wanted.clone();
        let mut watch = store.watch("/k/", revision as u64).unwrap();
        while let Ok(Some(event)) = watch.try_next() {
            let key = event.entry.key().to_owned();
            if event.deleted {
                replayed.remove(&key);
            } else {
                replayed.insert(key, event.entry.value().clone());
            }
            assert_eq!(&replayed, &past[event.revision() as usize]);
        }
        assert_eq!(&replayed, past.last().unwrap());
    }
}

/// Names the directory for the child of the next test.
const CHILD: &str = "CORACLE_STORE_CRASH_DIR";

/// Not a test of its own: what the killed process runs. It says each revision after it was acknowledged.
#[test]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let store = open(Path::new(&dir));
    runtime().block_on(async {
        let writers = (0..8u32).map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("/w/{w}");
                loop {
                    let expect = store.get(&key).map_or(Expect::Absent, |e| Expect::Revision(e.revision()));
                    let value = |r: Revision| Change::Put(Bytes::from(format!("{w}@{r}")));
                    let entry = store.write(&key, expect, value).await.unwrap();
                    let line = format!("{w} {}\n", entry.revision());
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_writes_until_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
        let mut take = |line: &str| {
            let (writer, revision) = line.split_once(' ')?;
            let revision = revision.parse().ok()?;
            writer.parse::<u32>().ok()?;
            acknowledged.insert(format!("/w/{writer}"), revision)
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref().take(100 + round * 37) {
            take(&line.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was still in the pipe was acknowledged as well; the last line may be cut off.
        for line in lines.map_while(Result::ok) {
            take(&line);
        }
        let store = open(dir.path());
        assert!(!acknowledged.is_empty());
        for (key, revision) in &acknowledged {
            let entry = store.get(key).unwrap();
            assert!(entry.revision() >= *revision, "{key}: {} < {revision}", entry.revision());
            let (_, inside) = std::str::from_utf8(entry.value()).unwrap().split_once('@').unwrap();
            assert_eq!(inside.parse::<u64>().unwrap(), entry.revision());
        }
    }
}
