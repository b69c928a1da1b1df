//! Fuzz targets of getty: one function for each.
//!
//! libFuzzer calls them from the workspace in `fuzz/libfuzzer`, and stable Rust from
//! `tests/targets`. docs/fuzzing.md describes both.
#![cfg(feature = "targets")]

mod cluster;
mod codec;
mod compress;
mod edge;
mod kit;
mod pem;
mod proxy_protocol;
mod session;
mod ws;

/// A fuzz target. It panics on a bug.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, which is also that of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Runs the target on one input.
    pub run: fn(&[u8]),
}

/// Calls a macro with all targets: `module { target, ... }` for each module.
#[macro_export]
macro_rules! with_targets {
    ($with:ident) => {
        $with! {
            codec {
                codec_lines,
                codec_length_delimited,
                codec_frames,
                codec_varint_delimited,
                codec_raw,
                codec_messages,
                codec_packets,
                codec_deflated,
                codec_switch,
                codec_json,
                codec_message_pack,
                codec_postcard,
                codec_prost,
            }
            ws {
                ws_frames,
                ws_request,
                ws_response,
                ws_deflate_offers,
                ws_inflate,
            }
            compress {
                compressed_stream,
                compressed_messages,
            }
            edge {
                detect_tls,
                detect_ws,
                opening,
                socks5_reply,
                connect_reply,
                proxy_target,
            }
            proxy_protocol {
                proxy_header,
            }
            pem {
                pem,
            }
            cluster {
                bus_frames,
                bus_subjects,
            }
            session {
                session_messages,
                session_framed,
                session_watermarks,
                session_reply_limit,
            }
        }
    };
}

macro_rules! targets {
    ($($module:ident { $($name:ident,)* })*) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[
            $($(Target { name: stringify!($name), run: $module::$name },)*)*
        ];

        $($(
            #[doc = concat!("Runs the target `", stringify!($name), "` on one input.")]
            pub fn $name(data: &[u8]) {
                $module::$name(data);
            }
        )*)*
    };
}

with_targets!(targets);
