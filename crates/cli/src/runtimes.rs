//! The image that a program runs in: by the name that the network publishes, or by hash.

use anyhow::Result;
use protocol::FileHash;
use protocol::message::MessageType;
use protocol::message::program::{Interface, Runtime};
use protocol::network::{SETTINGS_ADDRESS, VM_IMAGES_KEY, VmImages};

use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::publish;

/// The image without a Python, where executables are at home.
const MINIMAL: &str = "minimal";

/// Finds the image that is named, or the one that fits the interface when none is named.
///
/// # Errors
/// [`Failure`] when there is none of that name or hash, or the message node cannot be asked.
pub async fn resolve(context: &Context, named: Option<&str>, interface: Interface) -> Result<Runtime> {
    // STORE messages are named as files are: by 64 hexadecimal digits.
    if let Some(hash) = named.and_then(|named| named.parse::<FileHash>().ok()) {
        return by_hash(context, hash.to_string()).await;
    }
    let images: VmImages = context.node.aggregate(SETTINGS_ADDRESS, VM_IMAGES_KEY).await?.unwrap_or_default();
    Ok(pick(&images, named, interface)?)
}

async fn by_hash(context: &Context, hash: String) -> Result<Runtime> {
    let found = context.node.message(&hash).await?;
    let what = format!("the runtime {hash}");
    let Some(found) = found else {
        return Err(Failure::new(Code::NotFound, format!("the message node does not know {what}"))
            .hint("write the hash of the image's STORE message, not of its file; or a name, as python3")
            .into());
    };
    if !found.status.is_in_force() {
        return Err(publish::refusal(&found, &what).into());
    }
    let kind = found.message.map(|message| message.envelope.message_type);
    if kind.is_some_and(|kind| kind != MessageType::Store) {
        return Err(Failure::new(Code::NotFound, format!("{what} is no file, but another message")).into());
    }
    Ok(Runtime { reference: hash, use_latest: true, comment: String::new() })
}

fn pick(images: &VmImages, named: Option<&str>, interface: Interface) -> Result<Runtime, Failure> {
    let names = || images.runtimes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let name = match named {
        Some(name) => Some(name),
        None if interface == Interface::Binary && images.runtimes.contains_key(MINIMAL) => Some(MINIMAL),
        None => images.defaults.runtime.as_deref(),
    };
    let image = name.and_then(|name| images.runtimes.get(name));
    match (image, name) {
        (Some(image), Some(name)) => Ok(Runtime {
            reference: image.hash.clone(),
            use_latest: true,
            comment: image.display_name.clone().unwrap_or_else(|| name.to_owned()),
        }),
        _ if images.runtimes.is_empty() => Err(Failure::new(Code::NotFound, "this network publishes no runtimes")
            .hint("name one by its hash: --runtime HASH of the image's STORE message")),
        (_, Some(name)) => Err(Failure::new(Code::NotFound, format!("this network has no runtime '{name}'"))
            .hint(format!("it has {}; or write the hash of an image's STORE message", names()))),
        (_, None) => Err(Failure::new(Code::NotFound, "this network has no default runtime")
            .hint(format!("name one with --runtime: it has {}", names()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(default: Option<&str>) -> VmImages {
        serde_json::from_value(serde_json::json!({
            "runtimes": {"python3": {"hash": "aa", "display_name": "Python 3"}, "minimal": {"hash": "bb"}},
            "defaults": {"runtime": default},
        }))
        .unwrap()
    }

    #[test]
    fn images_are_picked_by_name_interface_or_default() {
        let of = |named, interface| pick(&images(Some("python3")), named, interface).unwrap();
        assert_eq!(of(None, Interface::Asgi).reference, "aa");
        assert_eq!(of(None, Interface::Asgi).comment, "Python 3");
        assert_eq!(of(None, Interface::Binary).reference, "bb");
        assert_eq!(of(Some("python3"), Interface::Binary).reference, "aa");
    }

    #[test]
    fn what_is_there_is_named() {
        let hint = |images: &VmImages, named| pick(images, named, Interface::Asgi).unwrap_err().hint.unwrap();
        assert!(hint(&images(None), None).contains("minimal, python3"));
        assert!(hint(&images(None), Some("ruby")).contains("minimal, python3"));
        assert!(hint(&VmImages::default(), None).contains("--runtime HASH"));
    }
}
