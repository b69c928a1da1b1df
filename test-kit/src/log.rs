//! Capture of events and spans.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::{
    Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, Interest},
};

/// Captures the events and spans of `tracing` on the current thread while it lives.
///
/// Tests with several threads capture the events of the thread that has created the log. A
/// `#[tokio::test]` has one thread.
///
/// ```
/// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
/// use getty::layers::TraceLayer;
/// use getty_test::{Log, TestSession};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let log = Log::capture();
/// let session = TestSession::stream(
///     ServiceBuilder::new()
///         .layer(TraceLayer::new())
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .service(handle(async |line: String| line)),
/// );
/// session.finish();
/// session.closed().await;
/// getty_test::settle().await;
///
/// let closed = log.event("connection closed");
/// assert_eq!(closed.field("reason"), "peer_closed");
/// assert_eq!(closed.spans, ["connection"]);
/// # }
/// ```
#[derive(Debug)]
pub struct Log {
    records: Arc<Mutex<Records>>,
    level: Option<Level>,
    guard: Option<DefaultGuard>,
}

/// Values of fields as text, by their names. The message is the field `message`.
type Fields = BTreeMap<&'static str, String>;

/// An event that a [`Log`] has captured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogEvent {
    /// Level of the event.
    pub level: Level,
    /// Target of the event, which is the module by default.
    pub target: String,
    /// Names of the spans around the event, from the outermost.
    pub spans: Vec<&'static str>,
    fields: Fields,
    span_fields: Fields,
}

/// A span that a [`Log`] has captured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSpan {
    /// Name of the span.
    pub name: &'static str,
    /// Level of the span.
    pub level: Level,
    fields: Fields,
    recorded: Vec<(&'static str, String)>,
}

/// Returns the value of a field. Missing fields are empty.
fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

impl LogEvent {
    /// Returns the message of the event.
    #[must_use]
    pub fn message(&self) -> &str {
        self.field("message")
    }

    /// Returns a field as text. It is empty if the event has no such field.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        field(&self.fields, name)
    }

    /// Returns the names of the fields, in alphabetical order, without the message.
    pub fn field_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let names = self.fields.keys().copied();
        names.filter(|name| *name != "message")
    }

    /// Returns a field of the spans around the event as text. The innermost span with the field
    /// counts. It is empty if no span has such a field.
    #[must_use]
    pub fn span_field(&self, name: &str) -> &str {
        field(&self.span_fields, name)
    }
}

impl LogSpan {
    /// Returns a field as text. It is empty if the span has no such field.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        field(&self.fields, name)
    }

    /// Returns the values of a field that were recorded after the span was created, in their order.
    pub fn recorded<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let recorded = self.recorded.iter();
        recorded.filter_map(move |(field, value)| (*field == name).then_some(&**value))
    }

    /// Returns the names of the fields, in alphabetical order.
    pub fn field_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.fields.keys().copied()
    }
}

impl Log {
    /// Captures from now on, at the level `DEBUG` and above, until the log is dropped.
    #[must_use]
    pub fn capture() -> Self {
        Self::capture_at(Level::DEBUG)
    }

    /// Captures from now on, at this level and above, until the log is dropped.
    #[must_use]
    pub fn capture_at(level: Level) -> Self {
        Self::with_level(Some(level))
    }

    /// Enables no level, and so captures nothing. It tests code that runs without a log.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with_level(None)
    }

    fn with_level(level: Option<Level>) -> Self {
        let records = Arc::<Mutex<Records>>::default();
        let subscriber = Capture {
            level,
            records: Arc::clone(&records),
        };
        Self {
            records,
            level,
            guard: Some(tracing::subscriber::set_default(subscriber)),
        }
    }

    /// Stops the capture. The events and spans remain.
    ///
    /// Several logs of one thread must be stopped or dropped in the reverse order of their
    /// creation.
    pub fn stop(&mut self) {
        self.guard = None;
    }

    /// Returns the events in the order in which they occurred.
    #[must_use]
    pub fn events(&self) -> Vec<LogEvent> {
        lock(&self.records).events.clone()
    }

    /// Returns the spans in the order in which they were created.
    #[must_use]
    pub fn spans(&self) -> Vec<LogSpan> {
        let records = lock(&self.records);
        records.spans.iter().map(|span| span.span.clone()).collect()
    }

    /// Returns the only event with this message.
    ///
    /// # Panics
    ///
    /// Panics if there is none, or more than one.
    #[must_use]
    #[track_caller]
    pub fn event(&self, message: &str) -> LogEvent {
        self.only(|event| event.message() == message)
    }

    /// Returns the only event for which `filter` is `true`.
    ///
    /// # Panics
    ///
    /// Panics if there is none, or more than one.
    #[must_use]
    #[track_caller]
    pub fn only(&self, filter: impl FnMut(&LogEvent) -> bool) -> LogEvent {
        let events = self.events();
        let (found, rest): (Vec<_>, Vec<_>) = events.into_iter().partition(filter);
        match <[LogEvent; 1]>::try_from(found) {
            Ok([event]) => event,
            Err(found) => panic!("expected one event instead of {found:#?} among {rest:#?}"),
        }
    }

    /// Asserts that nothing was logged at the level `WARN` or `ERROR`.
    ///
    /// # Panics
    ///
    /// Panics otherwise, with the events, and if the log captures no warnings.
    #[track_caller]
    pub fn assert_no_warnings(&self) {
        let captures = self.level.is_some_and(|level| level >= Level::WARN);
        assert!(captures, "the log captures no warnings");
        let mut events = self.events();
        events.retain(|event| event.level <= Level::WARN);
        assert!(events.is_empty(), "expected no warnings: {events:#?}");
    }
}

fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Records {
    spans: Vec<Recorded>,
    events: Vec<LogEvent>,
    /// Indexes of the entered spans.
    entered: Vec<usize>,
}

#[derive(Debug)]
struct Recorded {
    span: LogSpan,
    parent: Option<usize>,
}

impl Records {
    /// Returns the index of the parent of a new span or event.
    fn parent(&self, explicit: Option<&Id>, contextual: bool) -> Option<usize> {
        if contextual {
            self.entered.last().copied()
        } else {
            explicit.map(index)
        }
    }
}

/// The ids of spans are their indexes plus 1.
fn index(id: &Id) -> usize {
    usize::try_from(id.into_u64() - 1).expect("ids are indexes")
}

#[derive(Debug)]
struct Capture {
    level: Option<Level>,
    records: Arc<Mutex<Records>>,
}

struct Visitor<'a>(&'a mut Fields);

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Capture {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // tests on other threads use other levels
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.level.is_some_and(|level| *metadata.level() <= level)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        // formatting values may use spans
        let mut fields = Fields::new();
        attributes.record(&mut Visitor(&mut fields));
        let metadata = attributes.metadata();
        let mut records = lock(&self.records);
        let parent = records.parent(attributes.parent(), attributes.is_contextual());
        let span = LogSpan {
            name: metadata.name(),
            level: *metadata.level(),
            fields,
            recorded: Vec::new(),
        };
        records.spans.push(Recorded { span, parent });
        Id::from_u64(records.spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields::new();
        values.record(&mut Visitor(&mut fields));
        let mut records = lock(&self.records);
        let span = &mut records.spans[index(span)].span;
        span.recorded.extend(fields.clone());
        span.fields.extend(fields);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Visitor(&mut fields));
        let mut records = lock(&self.records);
        let mut next = records.parent(event.parent(), event.is_contextual());
        let (mut spans, mut span_fields) = (Vec::new(), Fields::new());
        while let Some(index) = next {
            let Recorded { span, parent } = &records.spans[index];
            spans.insert(0, span.name);
            for (name, value) in &span.fields {
                span_fields.entry(name).or_insert_with(|| value.clone());
            }
            next = *parent;
        }
        let metadata = event.metadata();
        records.events.push(LogEvent {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            spans,
            fields,
            span_fields,
        });
    }

    fn enter(&self, span: &Id) {
        lock(&self.records).entered.push(index(span));
    }

    fn exit(&self, span: &Id) {
        let mut records = lock(&self.records);
        let last = records
            .entered
            .iter()
            .rposition(|&entered| entered == index(span));
        if let Some(last) = last {
            records.entered.remove(last);
        }
    }
}
