//! The durable side: one redb table from revision to record.
//!
//! A record, byte by byte (integers little-endian):
//!
//! ```text
//! 0        flags: 1 = put, 2 = delete; 16 = the value is sealed
//! 1..9     revision at which the key came into being
//! 9..11    length of the key, n
//! 11..11+n key
//! ..-4     value (of a deletion: what watchers are shown last)
//! last 4   CRC-32 of everything before
//! ```
//!
//! Replaying all records in order gives the map; those above the floor are also the history.
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::memory::Memory;
use super::seal::Seal;
use super::{Entry, Event, Revision, SEALED_PREFIX, StoreError};

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Name of the number that says how records are laid out.
const FORMAT_KEY: &str = "format";
/// The layout drawn above.
const FORMAT: u64 = 1;
/// Name of the newest revision whose history is gone.
const FLOOR_KEY: &str = "floor";
/// Name of the newest revision; the record of a late deletion may already be gone.
const REVISION_KEY: &str = "revision";
/// The database's own page cache. All reads are from our memory, so it only needs the pages a commit touches.
const PAGE_CACHE: usize = 2 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const SEALED: u8 = 16;
/// Bytes before the key.
const HEAD: usize = 11;
/// Bytes after the value.
const TAIL: usize = 4;

/// The open file.
pub(super) struct Log {
    database: Database,
    seal: Seal,
    path: PathBuf,
}

impl Log {
    /// Opens or creates the file in `dir` and replays it.
    pub(super) fn open(dir: &Path) -> Result<(Self, Memory), StoreError> {
        let path = dir.join("state.redb");
        let failed = |reason: String| StoreError::Open { path: path.display().to_string(), reason };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(e.to_string()))?;
        let seal = Seal::load_or_create(&dir.join("secrets.key")).map_err(|e| failed(format!("secrets.key: {e}")))?;
        let fresh = !path.exists();
        if fresh {
            create(&path).map_err(failed)?;
        } else {
            refuse_foreign(&path)?;
        }
        let aside = path.with_extension("opening");
        fs::copy(&path, &aside).map_err(|e| failed(e.to_string()))?;
        // The database asserts on some kinds of damage; to its caller that is damage, not a crash.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = open_database(&path)?;
            let log = Self { database, seal, path: path.clone() };
            let memory = log.load()?;
            Ok((log, memory))
        }));
        let opened = opened.unwrap_or_else(|_| Err(corrupt(&path, "the database gave up reading it")));
        // Opening may repair, that is, write. What could not be read is put back as it was found.
        let cleaned = match &opened {
            Err(StoreError::Corrupt { .. }) => fs::rename(&aside, &path),
            _ => fs::remove_file(&aside),
        };
        cleaned.map_err(|e| failed(e.to_string()))?;
        opened
    }

    /// Replays every record.
    fn load(&self) -> Result<Memory, StoreError> {
        let bad = |reason: String| corrupt(&self.path, &reason);
        let read = self.database.begin_read().map_err(|e| bad(e.to_string()))?;
        let meta = read.open_table(META).map_err(|e| bad(e.to_string()))?;
        let number = |name: &str| match meta.get(name) {
            Ok(Some(value)) => Ok(value.value()),
            Ok(None) => Err(bad(format!("{name} is missing"))),
            Err(error) => Err(bad(error.to_string())),
        };
        let format = number(FORMAT_KEY)?;
        if format != FORMAT {
            return Err(bad(format!("format {format}, this program reads {FORMAT}")));
        }
        let mut memory = Memory::new(number(FLOOR_KEY)?);
        let newest = number(REVISION_KEY)?;
        let records = read.open_table(RECORDS).map_err(|e| bad(e.to_string()))?;
        for item in records.iter().map_err(|e| bad(e.to_string()))? {
            let (revision, record) = item.map_err(|e| bad(e.to_string()))?;
            let revision = revision.value();
            let (entry, deleted) =
                decode(record.value(), revision, &self.seal).map_err(|e| bad(format!("revision {revision}: {e}")))?;
            let previous = memory.get(entry.key());
            memory.apply(Event { entry, previous, deleted });
        }
        match memory.revision() {
            found if found == newest => Ok(memory),
            found => Err(bad(format!("ends at revision {found}, not {newest}"))),
        }
    }

    /// Makes `events` durable and deletes the records that only `leaving` history needed, in one transaction.
    pub(super) fn append(&self, events: &[Event], leaving: &[Event]) -> Result<(), String> {
        let write = self.database.begin_write().map_err(|e| e.to_string())?;
        {
            let mut records = write.open_table(RECORDS).map_err(|e| e.to_string())?;
            for event in events {
                let record = encode(event, &self.seal)?;
                records.insert(event.revision(), record.as_slice()).map_err(|e| e.to_string())?;
            }
            let mut meta = write.open_table(META).map_err(|e| e.to_string())?;
            if let Some(last) = events.last() {
                meta.insert(REVISION_KEY, last.revision()).map_err(|e| e.to_string())?;
            }
            for event in leaving {
                let superseded = event.previous.as_ref().map(Entry::revision);
                let own = event.deleted.then(|| event.revision());
                for revision in superseded.into_iter().chain(own) {
                    records.remove(revision).map_err(|e| e.to_string())?;
                }
                meta.insert(FLOOR_KEY, event.revision()).map_err(|e| e.to_string())?;
            }
        }
        write.commit().map_err(|e| e.to_string())
    }
}

/// Makes a whole, empty database at another name first: a crash leaves either no file or a good one.
fn create(path: &Path) -> Result<(), String> {
    let fresh = path.with_extension("new");
    if fresh.exists() {
        fs::remove_file(&fresh).map_err(|e| e.to_string())?;
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|e| e.to_string())?;
    let database = Database::builder().create_file(file).map_err(|e| e.to_string())?;
    let write = database.begin_write().map_err(|e| e.to_string())?;
    {
        write.open_table(RECORDS).map_err(|e| e.to_string())?;
        let mut meta = write.open_table(META).map_err(|e| e.to_string())?;
        for (name, value) in [(FORMAT_KEY, FORMAT), (FLOOR_KEY, 0), (REVISION_KEY, 0)] {
            meta.insert(name, value).map_err(|e| e.to_string())?;
        }
    }
    write.commit().map_err(|e| e.to_string())?;
    drop(database);
    fs::rename(&fresh, path).map_err(|e| e.to_string())?;
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| e.to_string())
}

/// The database would fill an empty file with a new database: an emptied file must be refused instead.
fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() == 0 => Err(corrupt(path, "it is empty")),
        Ok(_) => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|e| open_error(path, &e.to_string()))
        }
        Err(error) => Err(open_error(path, &error.to_string())),
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    use redb::{DatabaseError, StorageError};
    Database::builder().set_cache_size(PAGE_CACHE).open(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => open_error(path, "another process has it open"),
        DatabaseError::Storage(StorageError::Io(e))
            if !matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            open_error(path, &e.to_string())
        }
        error => corrupt(path, &error.to_string()),
    })
}

fn corrupt(path: &Path, reason: &str) -> StoreError {
    StoreError::Corrupt { path: path.display().to_string(), reason: reason.to_owned() }
}

fn open_error(path: &Path, reason: &str) -> StoreError {
    StoreError::Open { path: path.display().to_string(), reason: reason.to_owned() }
}

/// What a sealed value is bound to.
fn identity(key: &str, revision: Revision) -> Vec<u8> {
    [&revision.to_le_bytes(), key.as_bytes()].concat()
}

fn encode(event: &Event, seal: &Seal) -> Result<Vec<u8>, String> {
    let entry = &event.entry;
    let key = entry.key().as_bytes();
    let length = u16::try_from(key.len()).map_err(|_| "the key is too long".to_owned())?;
    let sealed = entry.key().starts_with(SEALED_PREFIX);
    let mut flags = if event.deleted { DELETE } else { PUT };
    let value = if sealed {
        flags |= SEALED;
        let bound = identity(entry.key(), entry.revision());
        Bytes::from(seal.seal(entry.value(), &bound).ok_or("the value cannot be encrypted")?)
    } else {
        entry.value().clone()
    };
    let mut record = Vec::with_capacity(HEAD + key.len() + value.len() + TAIL);
    record.push(flags);
    record.extend_from_slice(&entry.created().to_le_bytes());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(key);
    record.extend_from_slice(&value);
    record.extend_from_slice(&checksum(&record).to_le_bytes());
    Ok(record)
}

/// The entry, and whether it is a deletion.
fn decode(record: &[u8], revision: Revision, seal: &Seal) -> Result<(Entry, bool), &'static str> {
    let (body, sum) = record.split_last_chunk::<TAIL>().ok_or("too short")?;
    if checksum(body) != u32::from_le_bytes(*sum) {
        return Err("wrong checksum");
    }
    let (&flags, rest) = body.split_first().ok_or("no flags")?;
    let (created, rest) = rest.split_first_chunk::<8>().ok_or("no header")?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or("no key length")?;
    let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or("no key")?;
    let key = std::str::from_utf8(key).map_err(|_| "the key is not text")?;
    let value = if flags & SEALED == 0 {
        Bytes::copy_from_slice(value)
    } else {
        let plain = seal.open(value, &identity(key, revision));
        Bytes::from(plain.ok_or("the key file does not open this secret")?)
    };
    let deleted = match flags & !SEALED {
        PUT => false,
        DELETE => true,
        _ => return Err("unknown flags"),
    };
    let created = u64::from_le_bytes(*created);
    Ok((Entry::new(Arc::from(key), value, created, revision), deleted))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
