//! Prints the public API of a crate, one item a line: `public-api-listing JSON`.
//!
//! Of an implementation of a trait it prints the `impl` and the associated types, not the
//! methods. Automatic traits are printed where a type does not implement them. So a type that
//! stops being `Send` adds a line.

use std::{error::Error, io::Write};

use public_api::Builder;

/// Traits that do not matter to users of the crate.
const SKIPPED: [&str; 5] = [
    "core::panic::unwind_safe::UnwindSafe",
    "core::panic::unwind_safe::RefUnwindSafe",
    "core::marker::Freeze",
    "core::marker::UnsafeUnpin",
    "core::marker::StructuralPartialEq",
];

/// Traits that the compiler implements by itself.
const AUTOMATIC: [&str; 3] = [
    "core::marker::Send",
    "core::marker::Sync",
    "core::marker::Unpin",
];

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: public-api-listing JSON")?;
    let api = Builder::from_rustdoc_json(path)
        .omit_blanket_impls(true)
        .build()?;
    let mut out = std::io::stdout().lock();
    // the type whose trait implementation was printed last
    let mut of: Option<String> = None;
    let mut last = String::new();
    for line in api.items().map(ToString::to_string) {
        let is_shown = if line.starts_with("impl") || line.starts_with("unsafe impl") {
            let name = implemented_trait(&line);
            of = name.is_some().then(|| implementing_type(&line));
            name.is_none_or(|name| !SKIPPED.contains(&name) && !AUTOMATIC.contains(&name))
        } else {
            // a free function after the implementation belongs to no type
            // only a trait adds methods to a reference, a tuple or a slice
            let is_foreign = ["fn &", "fn (", "fn ["]
                .iter()
                .any(|start| line.contains(start));
            !of.as_ref().is_some_and(|of| {
                let ends = ["::", "<"];
                is_foreign
                    || ends
                        .iter()
                        .any(|end| line.contains(&format!("fn {of}{end}")))
            })
        };
        // an item with two paths is listed twice
        if is_shown && line != last {
            writeln!(out, "{line}")?;
            last = line;
        }
    }
    Ok(())
}

/// Returns the type of `impl<..> Trait<..> for Type<..> where ..`, without its parameters.
fn implementing_type(line: &str) -> String {
    let of = line.split_once(" for ").map_or("", |(_, of)| of);
    let of = of.trim_start_matches('&').trim_start_matches("mut ");
    of.split([' ', '<']).next().unwrap_or(of).to_owned()
}

/// Returns the trait of `impl<..> Trait<..> for Type`, with its `!`, and `None` for
/// `impl Type`.
fn implemented_trait(line: &str) -> Option<&str> {
    let (before, _) = line.split_once(" for ")?;
    let mut rest = before.trim_start_matches("unsafe ").strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0_usize;
        let end = rest.char_indices().find(|&(at, c)| {
            match c {
                '<' => depth += 1,
                // not that of an arrow
                '>' if !rest[..at].ends_with('-') => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        rest = &rest[end.0 + 1..];
    }
    let name = rest.trim_start();
    let path = name.split('<').next().unwrap_or(name);
    Some(if SKIPPED.contains(&path.trim_start_matches('!')) {
        path.trim_start_matches('!')
    } else {
        path
    })
}
