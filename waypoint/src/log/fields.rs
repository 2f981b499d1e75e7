//! The fields of a line of text, as `tracing_subscriber` writes them without colours, in less time: text that needs no escapes is copied.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};

/// `name=value`, the message without its name.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        if writer.has_ansi_escapes() {
            return DefaultFields::new().format_fields(writer, fields);
        }
        let mut visitor = Visitor {
            writer,
            any: false,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    any: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.try_write(field.name(), value);
        }
    }

    fn try_write(&mut self, name: &str, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) -> fmt::Result {
        if std::mem::replace(&mut self.any, true) {
            self.writer.write_char(' ')?;
        }
        self.writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
        self.writer.write_char('=')?;
        value(&mut self.writer)
    }

    /// The message is written in a way of its own, and little of it is long.
    fn message(&mut self, field: &Field, message: &dyn Debug) {
        let first = !std::mem::replace(&mut self.any, true);
        let mut visitor = DefaultVisitor::new(self.writer.by_ref(), first);
        visitor.record_debug(field, message);
        self.result = self.result.and(visitor.finish());
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.message(field, &format_args!("{value}"));
        }
        self.write(field, |writer| {
            if !is_plain(value) {
                return write!(writer, "{value:?}");
            }
            writer.write_char('"')?;
            writer.write_str(value)?;
            writer.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            return self.message(field, value);
        }
        self.write(field, |writer| write!(writer, "{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let first = !std::mem::replace(&mut self.any, true);
        let mut visitor = DefaultVisitor::new(self.writer.by_ref(), first);
        visitor.record_error(field, value);
        self.result = self.result.and(visitor.finish());
    }
}

/// Whether its `Debug` is the text itself in quotes.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() {
        let error = io::Error::other("a\u{1b}b");
        tracing::event!(target: "access", tracing::Level::INFO, a.b = "text", r = "x\"y\\z", c = "\u{e4}\n\u{1b}", n = -1, f = 0.1 + 0.2, "hello");
        tracing::info!(
            none = None::<&str>,
            some = Some("x"),
            shown = %"a b",
            big = u128::MAX,
            yes = true
        );
        tracing::info!(error = &error as &(dyn std::error::Error + 'static), %error, ?error, "x{}\u{1b}", 1);
        tracing::info!("");
        let _span = tracing::info_span!("span", inside = "y", id = 7).entered();
        tracing::info!(message = "as a field", last = "");
    }

    #[test]
    fn text_is_as_the_default_has_it() {
        let (expected, found) = (Sink::default(), Sink::default());
        let (one, other) = (expected.clone(), found.clone());
        let log_as = |sink: Sink| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .without_time()
                .with_writer(move || sink.clone())
        };
        tracing::subscriber::with_default(log_as(one).finish(), log);
        tracing::subscriber::with_default(log_as(other).fmt_fields(PlainFields).finish(), log);
        let text = |sink: &Sink| String::from_utf8(sink.0.lock().clone()).unwrap();
        assert_eq!(text(&found), text(&expected));
        assert!(
            text(&found).starts_with(" INFO access: hello a.b=\"text\" r="),
            "{}",
            text(&found)
        );
    }
}
