//! Numbers of bytes as people write them: `5GB`, `500MB`, `2GiB`.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A number of bytes, more than zero when parsed. Decimal units are powers of 1000, as in `--max-shard-size` of
/// transformers; binary ones powers of 1024. Shown in binary units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fault = || Error::request(format!("{text:?} is no size; write 5GB, 500MB, 2GiB or a number of bytes"));
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1000,
            "m" | "mb" => 1000_u64.pow(2),
            "g" | "gb" => 1000_u64.pow(3),
            "t" | "tb" => 1000_u64.pow(4),
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(fault()),
        };
        // whole numbers exactly; only a fraction goes through floating point
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(factor).ok_or_else(fault)?,
            Err(_) => (number.parse::<f64>().map_err(|_| fault())? * factor as f64) as u64,
        };
        if bytes == 0 || bytes == u64::MAX { Err(fault()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let unit = (self.0.max(1).ilog2() / 10).min(4);
        match unit {
            0 => write!(f, "{} B", self.0),
            _ => write!(f, "{:.1} {}", self.0 as f64 / f64::from(10 * unit).exp2(), UNITS[unit as usize]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_transformers_reads_and_binary_units() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("500MB", 500_000_000),
            ("2GiB", 2 << 30),
            ("1.5 kib", 1536),
            ("0.5gb", 500_000_000),
            ("17", 17),
            ("8g", 8_000_000_000),
            ("18446744073709551614", u64::MAX - 1),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for text in ["", "GB", "0", "0GB", "-1GB", "5 XB", "1e3", "1.2.3GB", "99999999999999999999TB", "nan", "5GBs"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn shows_binary_units() {
        let shown = [0, 1023, 1024, 1536, 5_000_000_000, u64::MAX].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "4.7 GiB", "16777216.0 TiB"]);
    }
}
