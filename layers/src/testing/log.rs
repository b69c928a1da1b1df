//! Tracing subscriber for tests, which records spans and events.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, Interest},
};

pub(crate) type Fields = BTreeMap<&'static str, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Emitted {
    pub(crate) level: Level,
    pub(crate) fields: Fields,
    /// Names of the enclosing spans, from the outermost.
    pub(crate) spans: Vec<&'static str>,
}

impl Emitted {
    pub(crate) fn text(&self) -> &str {
        self.fields.get("message").map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) spans: Vec<(&'static str, Level, Fields)>,
    pub(crate) events: Vec<Emitted>,
    stack: Vec<u64>,
}

/// Subscriber that records spans and events of `most` and more severe levels.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    most: Option<Level>,
    pub(crate) state: Arc<Mutex<Recorded>>,
}

/// Records spans and events of this thread while the guard lives.
pub(crate) fn record(most: Option<Level>) -> (Recorder, DefaultGuard) {
    let recorder = Recorder {
        most,
        state: Arc::default(),
    };
    let guard = tracing::subscriber::set_default(recorder.clone());
    (recorder, guard)
}

impl Recorder {
    pub(crate) fn events(&self) -> Vec<Emitted> {
        self.state.lock().unwrap().events.clone()
    }

    pub(crate) fn spans(&self) -> Vec<(&'static str, Level, Fields)> {
        self.state.lock().unwrap().spans.clone()
    }
}

struct Visitor<'a>(&'a mut Fields);

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").unwrap();
        self.0.insert(field.name(), text);
    }
}

impl Subscriber for Recorder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Tests on other threads use other levels.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.most.is_some_and(|most| *metadata.level() <= most)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::new();
        span.record(&mut Visitor(&mut fields));
        let metadata = span.metadata();
        let mut state = self.state.lock().unwrap();
        let span = (metadata.name(), *metadata.level(), fields);
        state.spans.push(span);
        Id::from_u64(state.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Visitor(&mut fields));
        let mut state = self.state.lock().unwrap();
        let spans = state.stack.iter().map(|id| {
            let index = usize::try_from(id - 1).unwrap();
            state.spans[index].0
        });
        let event = Emitted {
            level: *event.metadata().level(),
            fields,
            spans: spans.collect(),
        };
        state.events.push(event);
    }

    fn enter(&self, span: &Id) {
        self.state.lock().unwrap().stack.push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let popped = self.state.lock().unwrap().stack.pop();
        assert_eq!(popped, Some(span.into_u64()));
    }
}
