//! Spans and events whose level is known at run time: tracing wants a call site for each.

macro_rules! at_level {
    ($level:expr, $macro:ident!($($arguments:tt)*)) => {
        match $level {
            tracing::Level::ERROR => tracing::$macro!(tracing::Level::ERROR, $($arguments)*),
            tracing::Level::WARN => tracing::$macro!(tracing::Level::WARN, $($arguments)*),
            tracing::Level::INFO => tracing::$macro!(tracing::Level::INFO, $($arguments)*),
            tracing::Level::DEBUG => tracing::$macro!(tracing::Level::DEBUG, $($arguments)*),
            tracing::Level::TRACE => tracing::$macro!(tracing::Level::TRACE, $($arguments)*),
        }
    };
}

/// A level in one byte. Connections keep two, and a [`Level`](tracing::Level) takes eight bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactLevel(u8);

impl CompactLevel {
    pub(crate) const fn new(level: tracing::Level) -> Self {
        Self(match level {
            tracing::Level::ERROR => 0,
            tracing::Level::WARN => 1,
            tracing::Level::INFO => 2,
            tracing::Level::DEBUG => 3,
            tracing::Level::TRACE => 4,
        })
    }

    pub(crate) const fn get(self) -> tracing::Level {
        match self.0 {
            0 => tracing::Level::ERROR,
            1 => tracing::Level::WARN,
            2 => tracing::Level::INFO,
            3 => tracing::Level::DEBUG,
            _ => tracing::Level::TRACE,
        }
    }
}

/// A subscriber that writes down what it is told, for tests.
#[cfg(all(test, not(getty_loom)))]
pub(crate) mod record {
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
    pub(crate) struct Told {
        pub(crate) level: Level,
        pub(crate) fields: Fields,
        /// The names of the spans around it, from the outermost.
        pub(crate) within: Vec<&'static str>,
    }

    impl Told {
        pub(crate) fn text(&self) -> &str {
            self.fields.get("message").map_or("", String::as_str)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct State {
        pub(crate) spans: Vec<(&'static str, Level, Fields)>,
        pub(crate) events: Vec<Told>,
        stack: Vec<u64>,
    }

    /// Takes what is at `most` or graver.
    #[derive(Clone, Debug)]
    pub(crate) struct Recorder {
        most: Option<Level>,
        pub(crate) state: Arc<Mutex<State>>,
    }

    /// Records on this thread from here on, as long as the guard lives.
    pub(crate) fn record(most: Option<Level>) -> (Recorder, DefaultGuard) {
        let recorder = Recorder {
            most,
            state: Arc::default(),
        };
        let guard = tracing::subscriber::set_default(recorder.clone());
        (recorder, guard)
    }

    impl Recorder {
        pub(crate) fn events(&self) -> Vec<Told> {
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
            // other tests, on other threads, want other levels
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
            let within = state.stack.iter().map(|id| {
                let index = usize::try_from(id - 1).unwrap();
                state.spans[index].0
            });
            let told = Told {
                level: *event.metadata().level(),
                fields,
                within: within.collect(),
            };
            state.events.push(told);
        }

        fn enter(&self, span: &Id) {
            self.state.lock().unwrap().stack.push(span.into_u64());
        }

        fn exit(&self, span: &Id) {
            let popped = self.state.lock().unwrap().stack.pop();
            assert_eq!(popped, Some(span.into_u64()));
        }
    }
}
