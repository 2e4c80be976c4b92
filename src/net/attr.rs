//! Netlink attributes: length, type, value, padded to four bytes; a value may be attributes again.
//!
//! ```text
//! 0               2               4
//! +---------------+---------------+-----------------+-------+
//! | length (u16)  | type (u16)    | value           | 0..3  |
//! +---------------+---------------+-----------------+-------+
//!   header+value    0x8000: nested                   padding
//! ```
use super::{Error, Result};

const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;

/// Builds an attribute list.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Starts after a family's own header.
    pub fn after(header: &[u8]) -> Self {
        Writer(header.to_vec())
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its closing zero.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn be64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nested(self, kind: u16, inner: Writer) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Applies `f` when there is a value.
    pub fn maybe<T>(self, value: Option<T>, f: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(v) => f(self, v),
            None => self,
        }
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A view of an attribute list. Unknown attributes are skipped, a torn tail ends the list.
#[derive(Debug, Clone, Copy)]
pub struct Attrs<'a>(&'a [u8]);

/// One attribute's value.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a>(pub &'a [u8]);

impl<'a> Attrs<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Attrs(bytes)
    }

    /// All attributes in order.
    pub fn iter(self) -> impl Iterator<Item = (u16, Value<'a>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest.len() < 4 {
                return None;
            }
            let len = u16::from_ne_bytes([rest[0], rest[1]]) as usize;
            let kind = u16::from_ne_bytes([rest[2], rest[3]]) & TYPE;
            let value = rest.get(4..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, Value(value)))
        })
    }

    pub fn get(self, kind: u16) -> Option<Value<'a>> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    /// Errors: the attribute is missing.
    pub fn need(self, kind: u16) -> Result<Value<'a>> {
        self.get(kind).ok_or_else(|| Error::Protocol(format!("attribute {kind} is missing")))
    }
}

impl<'a> Value<'a> {
    pub fn be32(self) -> Result<u32> {
        let bytes = self.0.try_into().map_err(|_| Error::Protocol(format!("{} bytes for a number", self.0.len())))?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub fn be64(self) -> Result<u64> {
        let bytes =
            self.0.try_into().map_err(|_| Error::Protocol(format!("{} bytes for a long number", self.0.len())))?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub fn text(self) -> Result<String> {
        let bytes = self.0.strip_suffix(&[0]).unwrap_or(self.0);
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::Protocol("a name that is not UTF-8".into()))
    }

    pub fn attrs(self) -> Attrs<'a> {
        Attrs(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_attributes_read_back() {
        let bytes = Writer::default().text(1, "abc").nested(2, Writer::default().be32(1, 7)).be64(3, 9).finish();
        let a = Attrs::new(&bytes);
        assert_eq!(a.need(1).unwrap().text().unwrap(), "abc");
        assert_eq!(a.need(2).unwrap().attrs().need(1).unwrap().be32().unwrap(), 7);
        assert_eq!(a.need(3).unwrap().be64().unwrap(), 9);
        assert!(a.need(4).is_err());
        assert_eq!(Attrs::new(&bytes[..bytes.len() - 1]).iter().count(), 2, "torn tail");
    }
}
