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
    let mut in_trait_impl = false;
    let mut last = String::new();
    for line in api.items().map(ToString::to_string) {
        let is_shown = if line.starts_with("impl") || line.starts_with("unsafe impl") {
            let name = implemented_trait(&line);
            in_trait_impl = name.is_some();
            name.is_none_or(|name| !SKIPPED.contains(&name) && !AUTOMATIC.contains(&name))
        } else {
            let is_method = line.starts_with("pub ") && line.contains("fn ") && line.contains('(');
            if !is_method && !line.starts_with("pub type") && !line.starts_with("pub const") {
                in_trait_impl = false;
            }
            !(in_trait_impl && is_method)
        };
        // an item with two paths is listed twice
        if is_shown && line != last {
            writeln!(out, "{line}")?;
            last = line;
        }
    }
    Ok(())
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
