//! Times and ids as they are written on the wire.

const DAY: i64 = 86_400_000_000;

/// Microseconds since the epoch as XEP-0082 writes them, in UTC. Years outside 0000 to 9999 become the nearest that can be written.
pub(super) fn stamp(micros: i64) -> String {
    // 0000-01-01 and the end of 9999-12-31, in days since the epoch.
    let micros = micros.clamp(-719_528 * DAY, 2_932_897 * DAY - 1);
    let (day, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = civil(day);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day since the epoch, in the Gregorian calendar. Years are counted from March, so that the leap day is a
/// year's last; 146 097 days are 400 years.
fn civil(day: i64) -> (i64, i64, i64) {
    let since = day + 719_468;
    let (era, of_era) = (since.div_euclid(146_097), since.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// A UUID.
pub(super) fn uuid(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in id.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_microsecond() {
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_767_323_045_678_901, "2026-01-02T03:04:05.678901Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(stamp(micros), expected);
        }
    }

    #[test]
    fn an_id_is_written_as_a_uuid() {
        let id = *b"\x01\x93\x6f\x0e\x7c\x1e\x7b\x9a\x8d\x60\x1d\x2c\x5f\x0a\x9b\x11";
        assert_eq!(uuid(&id), "01936f0e-7c1e-7b9a-8d60-1d2c5f0a9b11");
    }
}
