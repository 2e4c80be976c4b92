//! Memory that travels as a descriptor, and memory given back.
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MemFdCreateFlag, memfd_create};

/// A nameless file in memory holding `bytes`, read from its start.
pub fn memfd(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemFdCreateFlag::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// Let go of the pages this program maps from its own file and has not changed (code, constants), and of free heap. They
/// are read back from the page cache when touched again, so this costs a few faults and leaves resident only what the
/// process still runs through. With more than one thread, of what nobody can write to: another thread could change the
/// rest in between.
pub fn give_back_pages() -> io::Result<()> {
    let alone = super::process::single_threaded()?;
    // SAFETY: returns free heap memory to the kernel; takes no pointers.
    unsafe { libc::malloc_trim(0) };
    // First find, then drop: what runs in between is touched, and so resident, again.
    for (address, length) in droppable(alone)? {
        // SAFETY: no page in this range of a private mapping of our executable is a copy of ours, and no other thread
        // can make one: what is dropped is read again from the file, the same bytes.
        unsafe { libc::madvise(address as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    Ok(())
}

/// Ranges (address, length) of our executable's mappings in which no page is our own copy; those that can be written to
/// only `alone`.
fn droppable(alone: bool) -> io::Result<Vec<(usize, usize)>> {
    let exe = fs::read_link("/proc/self/exe")?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut ranges = Vec::new();
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let Some((start, end)) = mapping_of(line, &exe.to_string_lossy()).filter(|_| alone || !line.contains(" rw"))
        else {
            continue;
        };
        let mut entries = vec![0; (end - start) / PAGE * size_of::<u64>()];
        pagemap.read_exact_at(&mut entries, (start / PAGE * size_of::<u64>()) as u64)?;
        let runs = file_pages(&entries).into_iter();
        ranges.extend(runs.map(|(first, count)| (start + first * PAGE, count * PAGE)));
    }
    Ok(ranges)
}

/// The smallest page of all machines we run on; a larger one is several entries' worth of nothing.
const PAGE: usize = 4096;
/// Bits of a `/proc/self/pagemap` entry: resident, swapped out (and so ours), and the file's rather than our copy.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Runs (first, count) of pages of which we have no copy, from the bytes of a pagemap.
fn file_pages(entries: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, entry) in entries.chunks_exact(size_of::<u64>()).enumerate() {
        let entry = entry.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        if entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT {
            continue;
        }
        match runs.last_mut() {
            Some((first, count)) if *first + *count == at => *count += 1,
            _ => runs.push((at, 1)),
        }
    }
    runs
}

/// The address range of a line of `/proc/self/maps`, if it is of the file `exe`.
fn mapping_of(line: &str, exe: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    match line.ends_with(exe) {
        true => Some((address(start)?, address(end)?)),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_memfd_reads_from_its_start() {
        let mut text = String::new();
        memfd(c"test", b"hello").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn pages_of_the_file_are_found_and_copies_are_not() {
        let (file, copy) = ((PRESENT | OF_FILE).to_le_bytes(), PRESENT.to_le_bytes());
        let swapped = SWAPPED.to_le_bytes();
        let entries = [file, [0; 8], copy, [0; 8], file, swapped].concat();
        assert_eq!(file_pages(&entries), [(0, 2), (3, 2)]);
        assert_eq!(mapping_of("1000-3000 r--p 0 fe:00 7 /bin/x", "/bin/x"), Some((0x1000, 0x3000)));
        assert_eq!(mapping_of("1000-3000 rw-p 0 00:00 0", "/bin/x"), None);
    }

    #[test]
    fn what_threads_may_write_to_is_kept() {
        static CHANGED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        CHANGED.store(2, std::sync::atomic::Ordering::SeqCst);
        give_back_pages().unwrap();
        assert_eq!(CHANGED.load(std::sync::atomic::Ordering::SeqCst), 2);
    }
}
