//! Summaries of repeated measurements.

use serde_json::{Value, json};

/// Numbers of one kind, in one unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one; the mean of both when there are two. NaN when there are none.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// The smallest one that 99 % do not exceed: the largest when there are fewer than 100. NaN when there are none.
    pub(crate) fn p99(&self) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * 99).div_ceil(100);
        rank.checked_sub(1).map_or(f64::NAN, |index| sorted[index])
    }

    pub(crate) fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// The summary, and every number in the order of measurement.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "n": self.len(), "median": self.median(), "p99": self.p99(), "max": self.max(), "samples": self.0 })
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl Extend<f64> for Samples {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, samples: I) {
        self.0.extend(samples);
    }
}

/// Seconds, for people.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s.is_nan() => "-".to_owned(),
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// How many times as much.
pub(crate) fn ratio(this: f64, of: f64) -> String {
    let ratio = this / of;
    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(numbers: &[f64]) -> Samples {
        Samples(numbers.to_vec())
    }

    #[test]
    fn the_middle_and_the_end() {
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(samples(&[3.0, 1.0, 2.0]).p99(), 3.0);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((samples(&many).p99(), samples(&many).max()), (198.0, 200.0));
        assert!(samples(&[]).median().is_nan() && samples(&[]).p99().is_nan());
    }

    #[test]
    fn times_are_readable() {
        assert_eq!([0.000_25, 0.0123, 0.25, 2.0].map(seconds), ["250 µs", "12.3 ms", "250 ms", "2.00 s"]);
        assert_eq!(seconds(f64::NAN), "-");
        assert_eq!((ratio(3.0, 2.0), ratio(1.0, 0.0)), ("1.50".to_owned(), "-".to_owned()));
    }
}
