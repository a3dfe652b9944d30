//! `Range` (RFC 9110, section 14): which bytes of a file are wanted.

/// What a header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no header, or one that is not for us.
    Whole,
    /// From this byte to that one, both included.
    Part(u64, u64),
    /// Bytes that are not there.
    Impossible,
}

/// Reads the header for a file of this length. Several ranges at once are answered by the whole file, as is allowed.
pub fn read(header: Option<&str>, length: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((from, to)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(from), number(to)) {
        (Some(from), _) if from >= length && (to.is_empty() || number(to).is_some()) => {
            Wanted::Impossible
        }
        (Some(from), None) if to.is_empty() => Wanted::Part(from, length - 1),
        (Some(from), Some(to)) if to >= from => Wanted::Part(from, to.min(length - 1)),
        (None, Some(0)) if from.is_empty() => Wanted::Impossible,
        (None, Some(_)) if from.is_empty() && length == 0 => Wanted::Impossible,
        (None, Some(last)) if from.is_empty() => {
            Wanted::Part(length.saturating_sub(last), length - 1)
        }
        _ => Wanted::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_by_the_rfc() {
        for (header, wanted) in [
            ("bytes=0-0", Wanted::Part(0, 0)),
            ("bytes=2-", Wanted::Part(2, 9)),
            ("bytes=2-99", Wanted::Part(2, 9)),
            ("bytes=-3", Wanted::Part(7, 9)),
            ("bytes=-99", Wanted::Part(0, 9)),
            ("bytes=10-", Wanted::Impossible),
            ("bytes=10-12", Wanted::Impossible),
            ("bytes=-0", Wanted::Impossible),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Impossible),
        ] {
            assert_eq!(read(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(read(None, 10), Wanted::Whole);
        assert_eq!(read(Some("bytes=0-"), 0), Wanted::Impossible);
        assert_eq!(read(Some("bytes=-1"), 0), Wanted::Impossible);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(header in "(bytes=)?[0-9,\\-]{0,24}", length in 0_u64..1_000) {
            if let Wanted::Part(from, to) = read(Some(&header), length) {
                prop_assert!(from <= to && to < length);
            }
        }
    }
}
