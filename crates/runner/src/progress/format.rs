//! Numbers as people read them: counts with separators, bytes, durations, rates.

/// An integer with thousands separators.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Below this a figure is what rounding leaves of a sum that comes to zero, as of tasks above and below chance.
const NOTHING: f64 = 1e-12;

/// A figure: integers in full, other numbers to about five significant digits.
pub(crate) fn number(x: f64) -> String {
    let x = if x.abs() < NOTHING { 0.0 } else { x };
    let magnitude = x.abs();
    if !x.is_finite() || (magnitude != 0.0 && !(1e-4..1e15).contains(&magnitude)) {
        return format!("{x:.4e}");
    }
    let sign = if x < 0.0 { "-" } else { "" };
    if x.fract() == 0.0 {
        return format!("{sign}{}", count(magnitude as u64));
    }
    if magnitude >= 10_000.0 {
        return format!("{sign}{}", count(magnitude.round() as u64));
    }
    let decimals = (4 - magnitude.log10().floor() as i32).clamp(0, 8) as usize;
    let text = format!("{x:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds: `0.3 s`, `12 s`, `3m05s`, `2h04m`, `3d02h`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// An amount of a unit: `1,200 rows`, or `12.5 MB` when the unit is bytes.
pub(crate) fn amount(n: u64, unit: &str) -> String {
    if unit == "bytes" { bytes(n as f64) } else { format!("{} {unit}", count(n)) }
}

/// A rate per second: `35 steps/s`, `1.2 MB/s`.
pub(crate) fn rate(per_second: f64, unit: &str) -> String {
    if unit == "bytes" {
        return format!("{}/s", bytes(per_second));
    }
    match per_second {
        r if r >= 100.0 => format!("{} {unit}/s", count(r.round() as u64)),
        r if r >= 1.0 => format!("{r:.1} {unit}/s"),
        r => format!("{r:.2} {unit}/s"),
    }
}

/// Bytes: `12.5 MB`.
pub(crate) fn bytes(n: f64) -> String {
    let mut n = n;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if n < 999.5 || unit == "TB" {
            return if unit == "B" || n >= 99.95 {
                format!("{n:.0} {unit}")
            } else {
                format!("{n:.1} {unit}")
            };
        }
        n /= 1000.0;
    }
    unreachable!("the last unit returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_these() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!([0.0, -3.0, 0.25652, 1.0, 2.5].map(number), ["0", "-3", "0.25652", "1", "2.5"]);
        assert_eq!([123_456.7, 0.748_334, 1e-9].map(number), ["123,457", "0.74833", "1.0000e-9"]);
        let times = [0.04, 9.94, 9.96, 59.4, 59.6, 3_599.0, 7_440.0, 266_400.0].map(duration);
        assert_eq!(times, ["0.0 s", "9.9 s", "10 s", "59 s", "1m00s", "59m59s", "2h04m", "3d02h"]);
        assert_eq!(amount(12_500_000, "bytes"), "12.5 MB");
        assert_eq!(amount(1_200, "rows"), "1,200 rows");
        assert_eq!(rate(0.25, "steps"), "0.25 steps/s");
        assert_eq!(rate(1_250.0, "steps"), "1,250 steps/s");
    }
}
