//! The place of a span: its trace and its own name in it. Said to others and read from them in the
//! form of W3C's Trace Context, level 1 and later.

use http::HeaderMap;
use opentelemetry::{SpanId, TraceId};

/// Of a trace that is taken; for others there is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// The span is another process's.
    pub is_remote: bool,
}

impl Context {
    /// Of another process, by its numbers. `None`: zero is no name.
    pub fn remote(trace_id: u128, span_id: u64) -> Option<Self> {
        (trace_id != 0 && span_id != 0).then(|| Context {
            trace_id: TraceId::from_bytes(trace_id.to_be_bytes()),
            span_id: SpanId::from_bytes(span_id.to_be_bytes()),
            is_remote: true,
        })
    }

    /// The numbers that [`Context::remote`] takes.
    pub fn numbers(self) -> (u128, u64) {
        let trace_id = u128::from_be_bytes(self.trace_id.to_bytes());
        (trace_id, u64::from_be_bytes(self.span_id.to_bytes()))
    }

    /// Of a new trace.
    pub fn root() -> Self {
        Context {
            trace_id: TraceId::from_bytes(rand::random_range(1..=u128::MAX).to_be_bytes()),
            span_id: span_id(),
            is_remote: false,
        }
    }

    /// Of a new trace, if the lower 63 bits of its id are below a bound: so that whoever decides by the
    /// same rule decides alike.
    pub(crate) fn root_below(bound: u64) -> Option<Self> {
        if bound == 0 {
            return None;
        }
        let low: u64 = rand::random();
        if low >> 1 >= bound {
            return None;
        }
        let high: u64 = rand::random_range(1..=u64::MAX);
        let trace_id = u128::from(high) << 64 | u128::from(low);
        Some(Context {
            trace_id: TraceId::from_bytes(trace_id.to_be_bytes()),
            span_id: span_id(),
            is_remote: false,
        })
    }

    /// Of a new span in the same trace.
    pub fn child(self) -> Self {
        Context { span_id: span_id(), is_remote: false, ..self }
    }

    /// What a caller says. The outer `None`: nothing that can be understood; the inner one: that its
    /// trace is not taken.
    pub fn of_headers(headers: &HeaderMap) -> Option<Option<Self>> {
        parse(headers.get("traceparent")?.as_bytes())
    }

    /// What is said to whoever is called, as `traceparent`.
    pub fn traceparent(self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.span_id)
    }
}

fn span_id() -> SpanId {
    SpanId::from_bytes(rand::random_range(1..=u64::MAX).to_be_bytes())
}

/// `version-trace-span-flags`; later versions may add more behind.
fn parse(text: &[u8]) -> Option<Option<Context>> {
    const LENGTH: usize = 55;
    if text.len() < LENGTH || [2, 35, 52].iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let version = hex(&text[..2])?;
    let is_whole = match version {
        0 => text.len() == LENGTH,
        0xff => false,
        _ => text.len() == LENGTH || text[LENGTH] == b'-',
    };
    if !is_whole {
        return None;
    }
    let (trace_id, flags) = (hex(&text[3..35])?, hex(&text[53..55])?);
    let span_id = u64::try_from(hex(&text[36..52])?).ok()?;
    let context = Context::remote(trace_id, span_id)?;
    Some((flags & 1 == 1).then_some(context))
}

/// Lower case alone, as the specification has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_a_caller_says_is_read_and_said_again() {
        let context = parse(TAKEN.as_bytes()).flatten().expect("a context");
        assert!(context.is_remote);
        assert_eq!(context.traceparent(), TAKEN);
        let (trace_id, span_id) = context.numbers();
        assert_eq!(Context::remote(trace_id, span_id), Some(context));
        assert_ne!(context.child().span_id, context.span_id);
    }

    #[test]
    fn a_caller_may_say_that_its_trace_is_not_taken() {
        let text = TAKEN.replace("-01", "-00");
        assert_eq!(parse(text.as_bytes()), Some(None));
        let text = TAKEN.replace("-01", "-ff");
        assert!(parse(text.as_bytes()).flatten().is_some(), "flags of later versions");
    }

    #[test]
    fn a_later_version_may_say_more_and_this_one_may_not() {
        assert!(parse(format!("{TAKEN}-x").as_bytes()).is_none());
        let later = TAKEN.replacen("00-", "01-", 1);
        assert!(parse(later.as_bytes()).flatten().is_some());
        assert!(parse(format!("{later}-x").as_bytes()).flatten().is_some());
        assert!(parse(format!("{later}x").as_bytes()).is_none());
        assert!(parse(TAKEN.replacen("00-", "ff-", 1).as_bytes()).is_none());
    }

    #[test]
    fn what_names_nothing_is_as_nothing() {
        for text in [
            "",
            "00",
            &TAKEN.to_uppercase(),
            &TAKEN[..54],
            &TAKEN.replace("b7ad6b7169203331", "0000000000000000"),
            &TAKEN.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &TAKEN.replace('-', "_"),
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
