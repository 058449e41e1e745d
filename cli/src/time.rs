//! Points in time as people give and read them. Everything is UTC, so that two auditors see the same line.

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// Reads a timestamp (`2026-03-01T09:30:00Z`), a day (`2026-03-01`, its first moment), or how long ago (`90s`, `30m`, `2h`, `7d`).
pub fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, Timestamp::now())
}

fn parse_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    if let Ok(day) = text.parse::<Date>() {
        return day.to_zoned(TimeZone::UTC).map(|start| start.timestamp()).map_err(|error| error.to_string());
    }
    ago(text).and_then(|ago| now.checked_sub(ago).ok()).ok_or_else(|| {
        format!("'{text}' is neither a time such as 2026-03-01T09:30:00Z, nor a day such as 2026-03-01, nor an age such as 30m, 2h or 7d")
    })
}

/// A length of time such as `90s`, `15m` or `2h`, in seconds.
pub fn seconds(text: &str) -> Option<u32> {
    ago(text).and_then(|ago| u32::try_from(ago.as_secs()).ok())
}

fn ago(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| *count >= 0)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    count.checked_mul(seconds).map(SignedDuration::from_secs)
}

/// How long ago something in microseconds since the epoch was: `75s`, `12m`, `3h`, `5d`.
pub fn age_of_micros(micros: i64) -> String {
    let seconds = Timestamp::now().as_microsecond().saturating_sub(micros) / 1_000_000;
    match seconds.max(0) {
        s if s < 120 => format!("{s}s"),
        s if s < 7200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_as_timestamp_day_or_age() {
        let now: Timestamp = "2026-03-10T12:00:00Z".parse().expect("a time");
        for (given, meant) in [
            ("2026-03-01T09:30:00Z", "2026-03-01T09:30:00Z"),
            ("2026-03-01T09:30:00+02:00", "2026-03-01T07:30:00Z"),
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            ("30m", "2026-03-10T11:30:00Z"),
            ("7d", "2026-03-03T12:00:00Z"),
        ] {
            assert_eq!(parse_at(given, now).expect(given).to_string(), meant, "{given}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_forms_there_are() {
        for wrong in ["", "yesterday", "-5m", "5", "m", "2026-13-01", "9223372036854775807w", "é"] {
            let error = parse_at(wrong, Timestamp::UNIX_EPOCH).expect_err(wrong);
            assert!(error.contains("2026-03-01"), "{error}");
        }
    }
}
