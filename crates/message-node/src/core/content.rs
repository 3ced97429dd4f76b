//! The content of a message by its type, and what lists and streams filter by.

use protocol::message::{
    AggregateContent, ContentError, Envelope, ErrorCode, ForgetContent, ItemType, MessageType, PostContent,
    ProgramContent, StoreContent, parse_content,
};
use protocol::{Address, FileName};
use serde_json::{Value, json};

use super::Rejection;

/// How long a text may be that messages are found by: indexes of databases take no longer ones.
const MAX_KEY_BYTES: usize = 1024;

/// Entries of a list of tags by which a message is found.
const MOST_TAGS: usize = 100;

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
        // As everywhere in the network, wherever it occurs: PostgreSQL keeps no such character.
        if item_content.contains("\\u0000") {
            return Err(Rejection::new(
                ErrorCode::InvalidFormat,
                "Unsupported character in message: \\u0000".to_owned(),
            ));
        }
        // Also the fields that nobody here reads: one that clients cannot read would spoil every list for them.
        parse_content::<Value>(item_content).map_err(|error| invalid(&error))?;
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
        let content = content.map_err(|error| invalid(&error))?;
        content.check_lengths()?;
        Ok(content)
    }

    fn check_lengths(&self) -> Result<(), Rejection> {
        let keys = [
            ("address", Some(self.owner().as_str())),
            ("type", self.type_word()),
            ("ref", self.reference()),
            ("item_hash", self.file_hash()),
            ("key", self.key()),
        ];
        let long =
            keys.into_iter().find_map(|(field, text)| Some((field, text?.len())).filter(|(_, n)| *n > MAX_KEY_BYTES));
        let Some((field, length)) = long else { return Ok(()) };
        let message = format!("{length} bytes are more than the {MAX_KEY_BYTES} allowed");
        Err(invalid(&ContentError { path: field.to_owned(), message }))
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

    /// What `tags` filters by: the texts among the first [`MOST_TAGS`] entries of the list `tags` of the document, except those
    /// that are longer than anything that messages are found by.
    pub(crate) fn tags(&self) -> Vec<&str> {
        let list = match self {
            Self::Aggregate(content) => content.content.get("tags"),
            Self::Post(content) => content.content.get("tags"),
            _ => None,
        };
        let texts = list.and_then(Value::as_array).into_iter().flatten().take(MOST_TAGS).filter_map(Value::as_str);
        texts.filter(|text| text.len() <= MAX_KEY_BYTES).collect()
    }

    /// What `contentKeys` filters by.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Aggregate(content) => Some(&content.key),
            _ => None,
        }
    }
}

/// The file that holds the content of a message which is not inline.
///
/// # Errors
/// [`ErrorCode::InvalidFormat`] for programs on IPFS: the network knows a program by 32 bytes, which make its host name.
pub(crate) fn file_name(envelope: &Envelope) -> Result<FileName, Rejection> {
    if envelope.message_type == MessageType::Program && envelope.item_type == ItemType::Ipfs {
        let sentence = "a program is known by the SHA-256 of its content, not by a CID: send the content inline, or store it \
                        with storage/add_json and item_type 'storage'";
        return Err(Rejection::new(ErrorCode::InvalidFormat, sentence));
    }
    envelope
        .item_hash
        .parse()
        .map_err(|error: protocol::FileNameError| Rejection::new(ErrorCode::InvalidFormat, error.to_string()))
}

/// Checks the length of a content in a file.
///
/// # Errors
/// [`ErrorCode::InvalidFormat`].
pub(crate) fn check_length(bytes: u64, most: u64) -> Result<(), Rejection> {
    if bytes <= most {
        return Ok(());
    }
    Err(Rejection::new(ErrorCode::InvalidFormat, format!("the content has {bytes} bytes, at most {most}")))
}

/// The content of a message from its file. It is checked against the item hash once more: others who read the message have
/// nothing but these bytes to check, while a CID may stand for a tree that nobody can make from them.
///
/// # Errors
/// [`ErrorCode::InvalidFormat`].
pub(crate) fn read_file(envelope: &Envelope, bytes: Vec<u8>) -> Result<String, Rejection> {
    let wrong = |sentence: String| Rejection::new(ErrorCode::InvalidFormat, sentence);
    let text = String::from_utf8(bytes).map_err(|_| wrong("the content is no UTF-8 text".to_owned()))?;
    envelope.verify_content(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(text)
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
    fn tags_are_the_texts_of_a_list_in_the_document() {
        let tags = |message_type, more: &str, document: &str| {
            let text = format!(r#"{{"address":"0x1","time":1,{more},"content":{document}}}"#);
            let content = Content::parse(message_type, &text).unwrap();
            content.tags().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let post = |document: &str| tags(MessageType::Post, r#""type":"note""#, document);
        assert_eq!(post(r#"{"tags":["a",1,null,["b"],"c"]}"#), ["a", "c"]);
        for none in ["{}", "null", "[]", r#"{"tags":"a"}"#, r#"{"tags":{"a":1}}"#] {
            assert!(post(none).is_empty(), "{none}");
        }
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        assert_eq!(post(&json!({ "tags": [long, "a"] }).to_string()), ["a"]);
        let many: Vec<String> = (0..=MOST_TAGS).map(|n| n.to_string()).collect();
        assert_eq!(post(&json!({ "tags": many }).to_string()), many[..MOST_TAGS]);
        assert_eq!(tags(MessageType::Aggregate, r#""key":"k""#, r#"{"tags":["a"]}"#), ["a"]);
    }

    #[test]
    fn content_in_files_is_the_one_of_the_item_hash() {
        let text = r#"{"address":"0x1","time":1,"type":"note","content":{}}"#;
        let account = protocol::Account::generate();
        let time = protocol::message::MessageTime::now();
        let inline = Envelope::sign_inline(&account, MessageType::Post, text.to_owned(), time, None);
        let names = protocol::FileNames::of(text.as_bytes());
        for (item_type, item_hash, name) in [
            (ItemType::Storage, names.sha256.to_string(), names.sha256.into()),
            (ItemType::Ipfs, names.v0.to_string(), names.v0),
        ] {
            let envelope = Envelope { item_type, item_hash, item_content: None, ..inline.clone() };
            assert_eq!(file_name(&envelope), Ok(name));
            assert_eq!(read_file(&envelope, text.into()).unwrap(), text);
            for other in [b"{}".to_vec(), vec![0xff]] {
                assert_eq!(read_file(&envelope, other).unwrap_err().code, ErrorCode::InvalidFormat);
            }
            let program = Envelope { message_type: MessageType::Program, ..envelope };
            assert_eq!(file_name(&program).is_ok(), item_type == ItemType::Storage);
        }
        assert!(check_length(7, 7).is_ok() && check_length(8, 7).is_err());
    }

    #[test]
    fn what_clients_could_not_read_is_refused_wherever_it_stands() {
        let content = |value: &str| {
            let text =
                format!(r#"{{"address":"0x1","time":1,"item_type":"storage","item_hash":"f","more":[{value}]}}"#);
            Content::parse(MessageType::Store, &text)
        };
        assert!(content(r#""\ud83d\ude00",1e300"#).is_ok());
        for value in [r#""\ud83d""#, r#""\ude00\ud83d""#, "1e400"] {
            assert_eq!(content(value).unwrap_err().code, ErrorCode::InvalidFormat, "{value}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let rejection = Content::parse(MessageType::Store, r#"{"address":"0x1","time":1}"#).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::InvalidFormat);
        assert!(rejection.errors[0]["msg"].as_str().unwrap().contains("item_type"), "{rejection:?}");
        let aggregate = |key: &str| format!(r#"{{"address":"0x1","time":1,"key":"{key}","content":{{}}}}"#);
        let parse = |key: &str| Content::parse(MessageType::Aggregate, &aggregate(key)).map(|_| ());
        assert_eq!(parse(&"k".repeat(MAX_KEY_BYTES)), Ok(()));
        let rejection = parse(&"k".repeat(MAX_KEY_BYTES + 1)).unwrap_err();
        assert_eq!(rejection.errors[0]["loc"], json!(["content", "key"]), "{rejection:?}");
        let rejection = parse("k\\u0000").unwrap_err();
        assert!(rejection.errors[0].as_str().unwrap().contains("u0000"), "{rejection:?}");
        let rejection = Content::parse(MessageType::Instance, "{}").unwrap_err();
        assert!(rejection.errors[0].as_str().unwrap().contains("INSTANCE"));
    }
}
