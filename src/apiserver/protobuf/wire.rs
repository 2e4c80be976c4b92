//! Protobuf's wire format: fields with numbers, before anybody knows their types.
use super::{Unreadable, unreadable};

/// What is on the wire, before types.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Iterates over the fields of a message: number and value.
pub(super) struct Wire<'a>(pub(super) &'a [u8]);

impl<'a> Wire<'a> {
    /// Seven bits a byte, lowest first; the high bit says that more follow.
    fn varint(&mut self) -> Result<u64, Unreadable> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.0.split_first() else {
                return unreadable("it is cut off");
            };
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        unreadable("a number is too long")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let Some((head, rest)) = self.0.split_at_checked(length) else {
            return unreadable("it is cut off");
        };
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Raw<'a>), Unreadable> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Raw::Number(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().unwrap_or_default();
                Raw::Fixed(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Raw::Bytes(self.take(length)?)
            }
            other => return unreadable(format!("wire type {other}")),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Wire<'a> {
    type Item = Result<(u64, Raw<'a>), Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let field = self.field();
            if field.is_err() {
                self.0 = &[];
            }
            field
        })
    }
}
