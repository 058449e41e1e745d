//! Sizes and times as users write them: `1Gi`, `1h30m`.
//!
//! The API server checks the form by a pattern; a value that is well formed but cannot be meant (it overflows) is an error
//! of [`ByteSize::bytes`] and [`TimeSpan::duration`]. Neither type is ever rewritten: what the user wrote is what is stored.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// Why a size or a time cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalarError {
    /// What was written.
    pub value: String,
    /// What may be written instead.
    pub expected: &'static str,
}

impl std::fmt::Display for ScalarError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\" is not {}", self.value, self.expected)
    }
}

impl std::error::Error for ScalarError {}

/// A number of bytes: a whole number, alone or with `k`, `M`, `G`, `T` (powers of 1000) or `Ki`, `Mi`, `Gi`, `Ti` (of 1024).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteSize(pub String);

impl ByteSize {
    /// The number of bytes.
    pub fn bytes(&self) -> Result<u64, ScalarError> {
        let digits = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (number, unit) = self.0.split_at(digits);
        let factor: Option<u64> = match unit {
            "" => Some(1),
            "k" => Some(1000),
            "M" => Some(1000_u64.pow(2)),
            "G" => Some(1000_u64.pow(3)),
            "T" => Some(1000_u64.pow(4)),
            "Ki" => Some(1 << 10),
            "Mi" => Some(1 << 20),
            "Gi" => Some(1 << 30),
            "Ti" => Some(1 << 40),
            _ => None,
        };
        number
            .parse::<u64>()
            .ok()
            .filter(|n| *n > 0)
            .zip(factor)
            .and_then(|(n, factor)| n.checked_mul(factor))
            .ok_or(ScalarError { value: self.0.clone(), expected: "a number of bytes such as 512Mi or 1Gi" })
    }
}

impl From<&str> for ByteSize {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9]*(k|M|G|T|Ki|Mi|Gi|Ti)?$", "maxLength": 20 })
    }
}

/// A length of time: numbers with `ms`, `s`, `m` or `h`, one after another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeSpan(pub String);

impl TimeSpan {
    /// The length.
    pub fn duration(&self) -> Result<Duration, ScalarError> {
        let wrong =
            || ScalarError { value: self.0.clone(), expected: "a length of time such as 30s or 1h30m" };
        let mut rest = self.0.as_str();
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let milliseconds = match &rest[..letters] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(wrong()),
            };
            rest = &rest[letters..];
            total = number.checked_mul(milliseconds).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        }
        if self.0.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
    }
}

impl From<&str> for TimeSpan {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$", "maxLength": 20 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_what_its_unit_says() {
        for (text, bytes) in [("1", 1), ("2k", 2000), ("1Ki", 1024), ("3Mi", 3 << 20), ("1Gi", 1 << 30)] {
            assert_eq!(ByteSize::from(text).bytes(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_meant_is_refused() {
        for text in ["", "0", "-1", "1.5Gi", "Gi", "1GiB", "99999999999999Ti", "1é"] {
            assert!(ByteSize::from(text).bytes().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_the_sum_of_its_parts() {
        for (text, millis) in [("30s", 30_000), ("1h30m", 5_400_000), ("250ms", 250), ("0s", 0)] {
            assert_eq!(TimeSpan::from(text).duration(), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_time_that_cannot_be_meant_is_refused() {
        for text in ["", "5", "s", "1d", "1h 5m", "99999999999999999999h", "-1s", "1é"] {
            assert!(TimeSpan::from(text).duration().is_err(), "{text}");
        }
    }
}
