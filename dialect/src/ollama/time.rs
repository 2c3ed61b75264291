//! Ollama's times: RFC 3339, to the second in UTC.

/// Seconds since 1970 as `2026-01-31T12:00:00Z`.
pub fn written(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Seconds since 1970 of such a time, with a fraction or an offset or without; `None` where it is none, or
/// earlier.
pub fn read(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let real = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !real || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let zone = text
        .get(19..)?
        .trim_start_matches(|it: char| it == '.' || it.is_ascii_digit());
    let offset = || {
        let (hours, minutes) = zone.get(1..)?.split_once(':')?;
        let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
        Some(u64::from(hours) * 3600 + u64::from(minutes) * 60)
    };
    match zone.chars().next() {
        Some('+') => local.checked_sub(offset()?),
        Some('-') => Some(local + offset()?),
        _ => Some(local),
    }
}

/// Days since 1970 as year, month and day (Howard Hinnant, "chrono-compatible low-level date
/// algorithms": eras of 400 years that begin on the 1st of March).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// The reverse.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_716_580_891, "2024-05-24T20:01:31Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(written(seconds), text);
            assert_eq!(read(text), Some(seconds));
        }
        assert_eq!(read("2024-05-24T20:01:31.01558Z"), Some(1_716_580_891));
        assert_eq!(read("2024-05-24T22:01:31.1+02:00"), Some(1_716_580_891));
        for odd in [
            "yesterday",
            "2024-05-24T22:01:31+99999999999999999999:00",
            "éééééééééééé",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
