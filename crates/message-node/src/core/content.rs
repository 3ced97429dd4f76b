//! The content of a message by its type, and what lists and streams filter by.

use protocol::Address;
use protocol::message::{
    AggregateContent, ContentError, ErrorCode, ForgetContent, MessageType, PostContent, ProgramContent, StoreContent,
    parse_content,
};
use serde_json::{Value, json};

use super::Rejection;

/// The content of a message.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A program.
    Program(Box<ProgramContent>),
    /// A file.
    Store(StoreContent),
    /// Messages taken back.
    Forget(ForgetContent),
    /// Keys of a document.
    Aggregate(AggregateContent),
    /// A document.
    Post(PostContent),
}

impl Content {
    /// Reads an item content by the schema of its type.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidFormat`] with the field that is wrong, or because this node does not know the type.
    pub(crate) fn parse(message_type: MessageType, item_content: &str) -> Result<Self, Rejection> {
        let content = match message_type {
            MessageType::Program => ProgramContent::parse(item_content).map(|c| Self::Program(Box::new(c))),
            MessageType::Store => parse_content(item_content).map(Self::Store),
            MessageType::Forget => parse_content::<ForgetContent>(item_content)
                .and_then(|content| content.validate().map(|()| Self::Forget(content))),
            MessageType::Aggregate => parse_content(item_content).map(Self::Aggregate),
            MessageType::Post => parse_content(item_content).map(Self::Post),
            MessageType::Instance | MessageType::VProgram => {
                let sentence =
                    format!("{message_type} messages are not supported by this node; it runs PROGRAM messages");
                return Err(Rejection::new(ErrorCode::InvalidFormat, sentence));
            }
        };
        content.map_err(|error| invalid(&error))
    }

    /// The account that the message speaks for.
    pub(crate) fn owner(&self) -> &Address {
        match self {
            Self::Program(content) => &content.address,
            Self::Store(content) => &content.address,
            Self::Forget(content) => &content.address,
            Self::Aggregate(content) => &content.address,
            Self::Post(content) => &content.address,
        }
    }

    /// What `contentTypes` filters by.
    pub(crate) fn type_word(&self) -> Option<&str> {
        match self {
            Self::Program(_) => Some("vm-function"),
            Self::Post(content) => Some(&content.post_type),
            _ => None,
        }
    }

    /// What `refs` filters by: the text of `content.ref`, or the item hash in it when it names a whole message.
    pub(crate) fn reference(&self) -> Option<&str> {
        match self {
            Self::Store(content) => content.reference.as_deref(),
            Self::Post(content) => post_reference(content),
            _ => None,
        }
    }

    /// What `contentHashes` filters by.
    pub(crate) fn file_hash(&self) -> Option<&str> {
        match self {
            Self::Store(content) => Some(&content.item_hash),
            _ => None,
        }
    }

    /// What `contentKeys` filters by.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Aggregate(content) => Some(&content.key),
            _ => None,
        }
    }
}

/// The message that a post refers to.
pub(crate) fn post_reference(content: &PostContent) -> Option<&str> {
    match content.reference.as_ref()? {
        Value::String(hash) => Some(hash),
        Value::Object(message) => message.get("item_hash")?.as_str(),
        _ => None,
    }
}

/// A content against its schema, in the shape that Python clients print.
pub(crate) fn invalid(error: &ContentError) -> Rejection {
    Rejection {
        code: ErrorCode::InvalidFormat,
        errors: vec![json!({ "loc": ["content", error.path], "msg": error.message, "type": "value_error" })],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_the_fields_of_each_type() {
        let post = |reference: &str| {
            let text = format!(r#"{{"address":"0x1","time":1.5,"type":"note","ref":{reference},"content":{{}}}}"#);
            Content::parse(MessageType::Post, &text).unwrap()
        };
        assert_eq!(post("\"h\"").reference(), Some("h"));
        assert_eq!(post(r#"{"chain":"ETH","item_hash":"h2"}"#).reference(), Some("h2"));
        assert_eq!(post("null").reference(), None);
        assert_eq!(post("null").type_word(), Some("note"));
        let store = r#"{"address":"0x1","time":1,"item_type":"storage","item_hash":"f","ref":"name"}"#;
        let store = Content::parse(MessageType::Store, store).unwrap();
        assert_eq!((store.reference(), store.file_hash()), (Some("name"), Some("f")));
        let aggregate = r#"{"address":"0x1","time":1,"key":"k","content":{}}"#;
        assert_eq!(Content::parse(MessageType::Aggregate, aggregate).unwrap().key(), Some("k"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let rejection = Content::parse(MessageType::Store, r#"{"address":"0x1","time":1}"#).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::InvalidFormat);
        assert!(rejection.errors[0]["msg"].as_str().unwrap().contains("item_type"), "{rejection:?}");
        let rejection = Content::parse(MessageType::Instance, "{}").unwrap_err();
        assert!(rejection.errors[0].as_str().unwrap().contains("INSTANCE"));
    }
}
