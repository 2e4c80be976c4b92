//! Resource quantities: `100m`, `1.5Gi`, `2e3`; exact to a billionth, written back in Kubernetes' canonical form.
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// Billionths in one.
const ONE: i128 = 1_000_000_000;
/// Kubernetes caps quantities at the largest int64.
const MAX: i128 = i64::MAX as i128 * ONE;

/// An exact quantity. Equality and order look at the amount, not at how it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    /// The amount, in billionths.
    pub nanos: i128,
    /// Suffix family it is written in.
    pub format: Format,
}

/// Suffix family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `k M G`, `m`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi`
    BinarySi,
    /// `e3`
    DecimalExponent,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number + suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// A number, but no such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    /// A whole number.
    pub fn from_int(value: i64) -> Self {
        Quantity { nanos: i128::from(value) * ONE, format: Format::DecimalSi }
    }
    /// Thousandths (CPU millicores).
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }
    /// Bytes, written with `Ki`, `Mi`, …
    pub fn from_bytes(bytes: i64) -> Self {
        Quantity { nanos: i128::from(bytes) * ONE, format: Format::BinarySi }
    }
    /// The amount rounded up to a whole number.
    pub fn value(self) -> i64 {
        clamp(ceil_div(self.nanos, ONE))
    }
    /// The amount in thousandths, rounded up.
    pub fn milli(self) -> i64 {
        clamp(ceil_div(self.nanos, 1_000_000))
    }
    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
}

fn clamp(n: i128) -> i64 {
    n.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn ceil_div(a: i128, b: i128) -> i128 {
    a.div_euclid(b) + i128::from(a.rem_euclid(b) != 0)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        // A sum is written like its first non-zero part.
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }
}
impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self + Quantity { nanos: -other.nanos, format: other.format }
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(iter: I) -> Quantity {
        iter.fold(Quantity::default(), Add::add)
    }
}

/// (power of two or ten?, exponent) of a suffix.
fn suffix(text: &str) -> Result<(Format, i32), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == text) {
        return Ok((Format::DecimalSi, *exponent));
    }
    if let Some(at) = BINARY.iter().position(|s| *s == text) {
        return Ok((Format::BinarySi, at as i32 * 10));
    }
    let exponent = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    Ok((Format::DecimalExponent, exponent.parse().map_err(|_| QuantityError::Suffix)?))
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let negative = text.starts_with('-');
        let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Form);
        }
        let (format, exponent) = suffix(tail)?;
        let nanos = scale(whole, fraction, format, exponent);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// `whole.fraction` × 2^exponent or 10^exponent in billionths, rounded up, capped.
fn scale(whole: &str, fraction: &str, format: Format, exponent: i32) -> i128 {
    // 20 digits and 9 more for billionths leave room in an i128 for a factor of 2^10..; beyond that the cap is reached anyway.
    let whole = whole.trim_start_matches('0');
    let fraction = &fraction[..fraction.len().min(12)];
    if whole.len() > 19 {
        return MAX;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().unwrap_or(0);
    let places = fraction.len() as i32;
    let (up, mut down) = match format {
        Format::BinarySi => (1i128.checked_shl(exponent as u32), places - 9),
        _ => (Some(1), places - 9 - exponent),
    };
    let Some(mut value) = up.and_then(|u| digits.checked_mul(u)) else {
        return MAX;
    };
    while down < 0 && value != 0 {
        match value.checked_mul(10) {
            Some(v) => value = v,
            None => return MAX,
        }
        down += 1;
    }
    if value != 0 && down > 0 {
        value = 10i128.checked_pow(down as u32).map_or(1, |d| ceil_div(value, d));
    }
    value.min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nanos.abs() >= 1024 * ONE {
            let (mut n, mut power) = (ceil_div(self.nanos, ONE), 0);
            while n % 1024 == 0 && power < BINARY.len() - 1 {
                n /= 1024;
                power += 1;
            }
            return write!(f, "{n}{}", BINARY[power]);
        }
        let (mut n, mut power) = (self.nanos, 0);
        while n % 1000 == 0 && power < DECIMAL.len() - 1 {
            n /= 1000;
            power += 1;
        }
        let (letter, exponent) = DECIMAL[power];
        match self.format {
            Format::DecimalExponent if exponent != 0 => write!(f, "{n}e{exponent}"),
            _ => write!(f, "{n}{letter}"),
        }
    }
}

/// The quantity of a JSON value (text or number).
pub fn of(value: &serde_json::Value) -> Option<Quantity> {
    match value {
        serde_json::Value::String(s) => s.parse().ok(),
        serde_json::Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_writes_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("512", "512"),
            ("1e3", "1e3"),
            ("8E", "8E"),
            ("1500M", "1500M"),
            ("2000M", "2G"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+3", "3"),
            (".5", "500m"),
            ("5.", "5"),
            ("0Gi", "0"),
            ("0.5Ki", "512"),
            ("99999999999999999999", "9223372036854775807"),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Ok(canonical.into()), "{text}");
        }
        assert_eq!("1x".parse::<Quantity>(), Err(QuantityError::Suffix));
        assert_eq!("".parse::<Quantity>(), Err(QuantityError::Form));
        assert_eq!("1.2.3".parse::<Quantity>(), Err(QuantityError::Form));
    }

    #[test]
    fn adds_and_compares_amounts() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!(q("1Gi"), q("1073741824"));
        assert!(q("1500m") > q("1"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("0") + q("64Mi")).to_string(), "64Mi");
        assert_eq!(q("1.1").value(), 2);
        assert_eq!(q("0.0001").milli(), 1);
        assert_eq!((q("1") - q("1500m")).to_string(), "-500m");
    }
}
