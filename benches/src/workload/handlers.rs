//! Stacks that end in handlers, in `dispatch` and in routers.
//!
//! The reference of a handler is a `service_fn`, that of a router is a `match` in one.

use std::{hint::black_box, marker::PhantomData, sync::Arc};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, IntoReply, Layer, Request, Service, Session, SessionLayer,
    codec::{Decoder, Encoder, LengthDelimited},
    handler::{
        Attribute, Keyed, NoCase, Router, Scope, State, dispatch, handle, handle_mut, handle_with,
        make_service,
    },
    layers::OnOpenLayer,
    service_fn,
};

use super::layers::{LayerStack, Stack, framed, on_messages};
use crate::server::codec;

/// Handlers of all messages.
pub const HANDLERS: [LayerStack; 8] = [
    ("plain", || on_messages(handle(|message: Bytes| message))),
    ("async", || {
        on_messages(handle(async |message: Bytes| message))
    }),
    ("session", || {
        on_messages(handle(|message: Bytes, session: Session<Bytes>| {
            black_box(session.id());
            message
        }))
    }),
    ("state", || {
        let name = Name("ada".into());
        on_messages(handle_with(
            name,
            |message: Bytes, State(name): State<Name>| {
                black_box(name.0.len());
                message
            },
        ))
    }),
    ("attribute", || {
        let messages = handle(|message: Bytes, Attribute(name): Attribute<Name>| {
            black_box(name.0.len());
            message
        });
        framed(OnOpenLayer::new(set_name).layer(SessionLayer::new().layer(messages)))
    }),
    ("option-attribute", || {
        let messages = handle(|message: Bytes, name: Option<Attribute<Name>>| {
            black_box(name.is_some());
            message
        });
        framed(OnOpenLayer::new(set_name).layer(SessionLayer::new().layer(messages)))
    }),
    ("session-and-attribute", || {
        type Named = Attribute<Name>;
        let messages = handle(
            |message: Bytes, session: Session<Bytes>, Attribute(name): Named| {
                black_box((session.id(), name.0.len()));
                message
            },
        );
        framed(OnOpenLayer::new(set_name).layer(SessionLayer::new().layer(messages)))
    }),
    ("method", || {
        let make = make_service(|_session: Session<Bytes>| handle_mut(Count(0), Count::count));
        framed(SessionLayer::per_session().layer(make))
    }),
];

/// Messages that are dispatched by number. The name has the number of routes.
pub const ROUTES: [LayerStack; 9] = [
    ("match-1", || numbered(1, service_fn(match_1))),
    ("match-64", || numbered(64, service_fn(match_64))),
    ("router-1", || numbered(1, router::<1>())),
    ("router-64", || numbered(64, router::<64>())),
    ("router-async-1", || numbered(1, async_router::<1>())),
    ("router-async-64", || numbered(64, async_router::<64>())),
    ("router-merged-64", || {
        numbered(64, Router::<Numbered, Bytes>::new().merge(router::<64>()))
    }),
    ("router-names-64", || numbered(64, named_router())),
    ("dispatch-3", || {
        let route = |message: Kind, scope: Scope<Bytes, ()>| match message {
            Kind::A(payload) => scope.call(payload_handler::<0>, payload),
            Kind::B(payload) => scope.call(payload_handler::<1>, payload),
            Kind::C(payload) => scope.call(payload_handler::<2>, payload),
        };
        numbered(3, dispatch((), route))
    }),
];

/// Returns all stacks that allocate nothing for a message.
pub fn without_allocation() -> impl Iterator<Item = LayerStack> {
    let is_async = |(name, _): &LayerStack| name.starts_with("router-async");
    HANDLERS
        .into_iter()
        .chain(ROUTES)
        .filter(move |stack| !is_async(stack))
}

#[derive(Clone)]
struct Name(Arc<str>);

/// The object of a session.
struct Count(u64);

impl Count {
    fn count(&mut self, message: Bytes) -> Bytes {
        self.0 += 1;
        black_box(self.0);
        message
    }
}

async fn set_name(session: Session<Bytes>) -> Result<(), BoxError> {
    session.insert(Name("ada".into()));
    Ok(())
}

/// A message with a number.
#[derive(Debug)]
struct Numbered {
    number: u16,
    payload: Bytes,
}

impl Keyed for Numbered {
    type Key = u16;

    fn key(&self) -> &u16 {
        &self.number
    }
}

/// A message with a name.
struct Named {
    name: NoCase,
    payload: Bytes,
}

impl Keyed for Named {
    type Key = NoCase;

    fn key(&self) -> &NoCase {
        &self.name
    }
}

impl From<Numbered> for Named {
    fn from(message: Numbered) -> Self {
        let name = Bytes::from_static(NAMES[usize::from(message.number)].as_bytes());
        Self {
            name: NoCase(name),
            payload: message.payload,
        }
    }
}

enum Kind {
    A(Bytes),
    B(Bytes),
    C(Bytes),
}

impl From<Numbered> for Kind {
    fn from(message: Numbered) -> Self {
        match message.number {
            0 => Self::A(message.payload),
            1 => Self::B(message.payload),
            _ => Self::C(message.payload),
        }
    }
}

/// Decodes messages that are numbered in turn.
#[derive(Debug)]
struct NumberedCodec<In> {
    inner: LengthDelimited,
    next: u16,
    end: u16,
    types: PhantomData<fn() -> In>,
}

impl<In> Clone for NumberedCodec<In> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            ..*self
        }
    }
}

impl<In: From<Numbered>> Decoder for NumberedCodec<In> {
    type Item = In;
    type Error = <LengthDelimited as Decoder>::Error;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<In>, Self::Error> {
        let Some(payload) = self.inner.decode(input)? else {
            return Ok(None);
        };
        let number = self.next;
        self.next = (number + 1) % self.end;
        Ok(Some(Numbered { number, payload }.into()))
    }
}

impl<In> Encoder<Bytes> for NumberedCodec<In> {
    type Error = <LengthDelimited as Encoder<Bytes>>::Error;

    fn encode(&mut self, message: Bytes, output: &mut BytesMut) -> Result<(), Self::Error> {
        self.inner.encode(message, output)
    }
}

fn numbered<In, S>(routes: u16, messages: S) -> Stack
where
    In: From<Numbered> + Send + 'static,
    S: Service<Request<In, Bytes>, Error = BoxError, Future: Send> + Clone + Send + 'static,
    S::Response: IntoReply<Bytes> + Send,
{
    let codec = NumberedCodec::<In> {
        inner: codec::length_delimited(),
        next: 0,
        end: routes,
        types: PhantomData,
    };
    Stack::of(CodecLayer::new(codec).layer(SessionLayer::new().layer(messages)))
}

#[inline(never)]
fn handler<const N: u16>(message: Numbered) -> Bytes {
    black_box(N);
    message.payload
}

async fn async_handler<const N: u16>(message: Numbered) -> Bytes {
    handler::<N>(message)
}

#[inline(never)]
fn named_handler<const N: u16>(message: Named) -> Bytes {
    black_box(N);
    message.payload
}

#[inline(never)]
fn payload_handler<const N: u16>(payload: Bytes) -> Bytes {
    black_box(N);
    payload
}

async fn match_1(request: Request<Numbered, Bytes>) -> Result<Bytes, BoxError> {
    let message = request.into_message();
    match message.number {
        0 => Ok(handler::<0>(message)),
        number => Err(format!("no route for {number}").into()),
    }
}

/// Calls a macro with the numbers of all routes.
macro_rules! with_numbers {
    ($call:ident) => {
        $call! {
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
            61 62 63
        }
    };
}

macro_rules! routes {
    ($($number:literal)*) => {
        const NAMES: [&str; 64] = [$(concat!("COMMAND-", $number),)*];

        async fn match_64(request: Request<Numbered, Bytes>) -> Result<Bytes, BoxError> {
            let message = request.into_message();
            match message.number {
                $($number => Ok(handler::<$number>(message)),)*
                number => Err(format!("no route for {number}").into()),
            }
        }

        fn router<const ROUTES: u16>() -> Router<Numbered, Bytes> {
            let router = Router::new();
            $(
                if $number == ROUTES { return router; }
                let router = router.route($number, handler::<$number>);
            )*
            router
        }

        fn async_router<const ROUTES: u16>() -> Router<Numbered, Bytes> {
            let router = Router::new();
            $(
                if $number == ROUTES { return router; }
                let router = router.route($number, async_handler::<$number>);
            )*
            router
        }

        fn named_router() -> Router<Named, Bytes> {
            Router::new()
                $(.route(NAMES[$number].to_ascii_lowercase(), named_handler::<$number>))*
        }
    };
}

with_numbers!(routes);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::runtime;

    #[test]
    fn every_stack_echoes() {
        for (_, stack) in HANDLERS.into_iter().chain(ROUTES) {
            stack().echo(&runtime(), 50, 64, 3);
        }
    }
}
