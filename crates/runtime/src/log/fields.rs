//! Formats the fields of a text line like `tracing_subscriber` without colours, but faster: text that needs no escapes
//! is copied.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};

/// Writes `name=value`; the message without its name.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        if writer.has_ansi_escapes() {
            return DefaultFields::new().format_fields(writer, fields);
        }
        // A field that is being formatted may itself log.
        let mut line = LINE.take();
        fields.record(&mut Plain {
            line: &mut line,
            any: false,
        });
        let result = writer.write_str(&line);
        line.clear();
        LINE.set(line);
        result
    }
}

thread_local! {
    /// A reused buffer. Collecting fields here costs less than many calls of the writer.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

struct Plain<'a> {
    line: &'a mut String,
    /// A field has been written.
    any: bool,
}

impl Plain<'_> {
    fn name(&mut self, field: &Field) {
        if std::mem::replace(&mut self.any, true) {
            self.line.push(' ');
        }
        let name = field.name();
        self.line.push_str(name.strip_prefix("r#").unwrap_or(name));
        self.line.push('=');
    }

    /// With the formatting of the standard library: for values that are rare or short.
    fn default(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        let first = !std::mem::replace(&mut self.any, true);
        let mut visitor = DefaultVisitor::new(Writer::new(self.line), first);
        record(&mut visitor);
    }
}

impl Visit for Plain<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" || !is_plain(value) {
            return self.default(|visitor| visitor.record_str(field, value));
        }
        self.name(field);
        self.line.push('"');
        self.line.push_str(value);
        self.line.push('"');
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            return self.default(|visitor| visitor.record_debug(field, value));
        }
        self.name(field);
        // Writing to a string does not fail.
        let _ = write!(self.line, "{value:?}");
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.default(|visitor| visitor.record_error(field, value));
    }
}

/// Whether the `Debug` output is the text itself in quotes.
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
        tracing::info!(error = &error as &(dyn Error + 'static), %error, ?error, "x{}\u{1b}", 1);
        tracing::info!("");
        tracing::info!(after = "nothing", "");
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
