//! Durations in attributes.

use std::time::Duration;

use syn::LitStr;

/// The longest timeout that a command may have.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `"10m"`, `"30s"`, `"1h30m"`, `"250ms"`; an error points at the literal.
pub(crate) fn parse(literal: &LitStr) -> syn::Result<Duration> {
    let text = literal.value();
    let Some(duration) = read(&text) else {
        let problem = format!(
            "`{text}` is not a duration: write it like \"250ms\", \"30s\", \"10m\", \"1h30m\" or \"2d\", larger units first"
        );
        return Err(syn::Error::new_spanned(literal, problem));
    };
    if duration.is_zero() || duration > LONGEST {
        return Err(syn::Error::new_spanned(literal, format!("`{text}` is not between 1 ms and 100 years")));
    }
    Ok(duration)
}

fn read(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut units) = (text, 0_u64, UNITS.as_slice());
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let at = units.iter().position(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(units[at].1)?)?;
        (rest, units) = (tail, &units[at + 1..]);
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_is_refused(text in prop_oneof![any::<String>(), "[0-9]{0,25}(ms|[dhms é])?[0-9]{0,3}[dhms]?"]) {
            let literal = LitStr::new(&text, Span::call_site());
            if let Ok(duration) = parse(&literal) {
                prop_assert!(!duration.is_zero() && duration <= LONGEST);
            }
        }

        #[test]
        fn a_sum_of_units_is_read_as_it_is_written(counts in prop::array::uniform5(0_u64..1_000)) {
            let written = |(count, (unit, _)): (&u64, &(&str, u64))| format!("{count}{unit}");
            let text: String = counts.iter().zip(&UNITS).map(written).collect();
            let millis = counts.iter().zip(&UNITS).map(|(count, (_, millis))| count * millis).sum();
            prop_assert_eq!(read(&text), Some(Duration::from_millis(millis)));
        }
    }

    #[test]
    fn durations_are_read_with_larger_units_first() {
        assert_eq!(read("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(read("2d"), Some(Duration::from_secs(172_800)));
        for nonsense in ["", "10", "m", "10 m", "10x", "-1s", "1.5h", "30m1h", "1s1s", "99999999999999999999s"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
