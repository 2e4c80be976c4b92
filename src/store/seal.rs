//! Encryption of values at rest: XChaCha20-Poly1305 under a key that lies beside the data.
//!
//! This keeps secrets out of a copied database file, a backup or a grep; it does not keep them from root on the host.
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;

/// Bytes of the random nonce in front of each sealed value: long enough to be drawn at random without counting.
const NONCE: usize = 24;
/// Bytes of the key.
const KEY: usize = 32;

/// The key, ready for use.
pub(super) struct Seal(XChaCha20Poly1305);

impl Seal {
    /// Reads the key at `path`, or makes one (mode 0600).
    pub(super) fn load_or_create(path: &Path) -> std::io::Result<Self> {
        let key = match fs::read(path) {
            Ok(key) => key,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(path)?,
            Err(error) => return Err(error),
        };
        if key.len() != KEY {
            let words = format!("the key file holds {} bytes, not {KEY}", key.len());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, words));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self(XChaCha20Poly1305::new(key.as_slice().into())))
    }

    /// Writes a new key beside `path` and renames it, so that a crash leaves either no key or a whole one.
    fn create(path: &Path) -> std::io::Result<Vec<u8>> {
        let mut key = vec![0; KEY];
        rand::rng().fill_bytes(&mut key);
        let fresh = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        Ok(key)
    }

    /// Nonce and ciphertext. `bound` (the record's identity) is authenticated: a sealed value moved to another
    /// record does not open.
    pub(super) fn seal(&self, plain: &[u8], bound: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: bound };
        let sealed = self.0.encrypt(XNonce::from_slice(&nonce), payload).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// The plain value, or `None` if key, identity or bytes are not the ones it was sealed with.
    pub(super) fn open(&self, sealed: &[u8], bound: &[u8]) -> Option<Vec<u8>> {
        let (nonce, msg) = sealed.split_at_checked(NONCE)?;
        let payload = Payload { msg, aad: bound };
        self.0.decrypt(XNonce::from_slice(nonce), payload).ok()
    }
}
