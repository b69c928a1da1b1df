//! The keys with their values, and the commands for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::resp::{Command, Value};

/// All keys of the server. Clones share the same keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store(Arc<Mutex<HashMap<Bytes, Bytes>>>);

impl Store {
    /// Returns the handler of the commands that have no route.
    pub(crate) fn handler(self) -> impl Fn(Command) -> Value + Clone {
        move |command| self.run(&command)
    }

    fn run(&self, Command { name, arguments }: &Command) -> Value {
        match (&*name.0.to_ascii_uppercase(), &arguments[..]) {
            (b"PING", []) => Value::Status("PONG"),
            (b"PING" | b"ECHO", [text]) => text.clone().into(),
            (b"GET", [key]) => self.get(key).into(),
            (b"SET", [key, value]) => {
                self.set(key, value);
                Value::OK
            }
            (b"SET", [_, _, ..]) => Value::Error("ERR SET has no options here".to_owned()),
            (b"DEL", keys @ [_, ..]) => self.remove(keys).into(),
            (b"INCR", [key]) => self.add(key, 1).map_or_else(not_a_number, Value::Integer),
            (b"DECR", [key]) => self.add(key, -1).map_or_else(not_a_number, Value::Integer),
            (b"DBSIZE", []) => self.lock().len().into(),
            (b"INFO", _) => Value::Bulk(Bytes::from(format!(
                "# Server\r\nredis_mode:standalone\r\n\r\n# Keyspace\r\ndb0:keys={}\r\n",
                self.lock().len()
            ))),
            // redis-cli and redis-benchmark send both when they start
            (b"COMMAND", _) => Value::Array(Vec::new()),
            (b"CONFIG", [_, name]) => Value::Array(vec![name.clone().into(), Bytes::new().into()]),
            (b"ECHO" | b"GET" | b"SET" | b"DEL" | b"INCR" | b"DECR" | b"PING" | b"DBSIZE", _) => {
                Value::wrong_arguments(name)
            }
            _ => Value::Error(format!("ERR unknown command '{name}'")),
        }
    }

    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.lock().get(key).cloned()
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        // Copies: the arguments of a command share the memory of everything that was read with it.
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.lock().insert(key, value);
    }

    /// Removes keys and returns the number of keys that existed.
    fn remove(&self, keys: &[Bytes]) -> usize {
        let mut all = self.lock();
        keys.iter().filter(|key| all.remove(*key).is_some()).count()
    }

    /// Adds to a number and returns the sum. A missing key is 0. Returns `None` if the value is
    /// not an integer or the sum has more than 64 bits.
    fn add(&self, key: &[u8], number: i64) -> Option<i64> {
        let mut all = self.lock();
        let before = match all.get(key) {
            Some(value) => std::str::from_utf8(value).ok()?.parse().ok()?,
            None => 0,
        };
        let sum: i64 = number.checked_add(before)?;
        all.insert(Bytes::copy_from_slice(key), sum.to_string().into());
        Some(sum)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_a_number() -> Value {
    Value::Error("ERR value is not an integer or out of range".to_owned())
}
