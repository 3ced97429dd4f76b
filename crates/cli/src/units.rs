//! Values of the command line: sizes, variables, volumes.

use protocol::message::{Persistence, Volume};
use serde_json::{Map, Value};

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Reads a size in MiB, as `128`, `512MiB`, `512M`, `2GiB` or `1.5G`. Units are powers of 1024.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let expected = || format!("'{text}' is no size: write it as 128, 512MiB or 2GiB");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        _ => return Err(expected()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let places =
        u32::try_from(fraction.len()).ok().and_then(|places| 10u64.checked_pow(places)).ok_or_else(expected)?;
    let digits: u64 = format!("{whole}{fraction}").parse().map_err(|_| expected())?;
    let scaled = digits.checked_mul(factor).ok_or_else(expected)?;
    match (scaled / places, scaled % places) {
        (mib @ 1..=1_048_576, 0) => Ok(mib),
        (0, 0) => Err("memory cannot be 0".to_owned()),
        (_, 0) => Err(format!("'{text}' is more than a program may have (1024GiB)")),
        _ => Err(format!("'{text}' is no whole number of MiB")),
    }
}

/// Reads `KEY=VALUE`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_variable(text: &str) -> Result<Variable, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Variable { name: name.to_owned(), value: value.to_owned() }),
        _ => Err(format!("'{text}' is no variable: write it as KEY=VALUE")),
    }
}

/// Reads a persistent volume, as `name=data,mount=/data,size_mib=100`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_persistent_volume(text: &str) -> Result<Volume, String> {
    let mut fields = parse_fields(text, &["name", "mount", "size_mib", "persistence", "comment"])?;
    require(&fields, &["name", "mount", "size_mib"])?;
    let host = serde_json::to_value(Persistence::Host).map_err(|e| e.to_string())?;
    fields.entry("persistence").or_insert(host);
    volume(fields)
}

/// Reads an ephemeral volume, as `mount=/tmp/work,size_mib=100`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_ephemeral_volume(text: &str) -> Result<Volume, String> {
    let mut fields = parse_fields(text, &["mount", "size_mib", "comment"])?;
    require(&fields, &["mount", "size_mib"])?;
    fields.insert("ephemeral".to_owned(), true.into());
    volume(fields)
}

/// Reads an immutable volume, as `mount=/opt/packages,ref=HASH`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_immutable_volume(text: &str) -> Result<Volume, String> {
    let mut fields = parse_fields(text, &["mount", "ref", "use_latest", "comment"])?;
    require(&fields, &["mount", "ref"])?;
    // Always written: readers of the message compare it as a whole.
    fields.entry("use_latest").or_insert(true.into());
    volume(fields)
}

fn parse_fields(text: &str, known: &[&str]) -> Result<Map<String, Value>, String> {
    let mut fields = Map::new();
    for field in text.split(',') {
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| format!("'{field}' is no field: write fields as name=value, separated by commas"))?;
        let (name, value) = (name.trim(), value.trim());
        if !known.contains(&name) {
            return Err(format!("'{name}' is no field of this volume: it has {}", known.join(", ")));
        }
        let value = match name {
            "size_mib" => parse_mib(value)?.into(),
            "use_latest" => match value.to_ascii_lowercase().as_str() {
                "true" => true.into(),
                "false" => false.into(),
                _ => return Err(format!("use_latest is '{value}': write true or false")),
            },
            _ => value.into(),
        };
        if fields.insert(name.to_owned(), value).is_some() {
            return Err(format!("'{name}' is given twice"));
        }
    }
    Ok(fields)
}

fn require(fields: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match names.iter().find(|name| !fields.contains_key(**name)) {
        Some(name) => Err(format!("'{name}' is missing")),
        None => Ok(()),
    }
}

fn volume(fields: Map<String, Value>) -> Result<Volume, String> {
    serde_json::from_value(fields.into()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, mib) in
            [("128", 128), ("512MiB", 512), ("512 MB", 512), ("2GiB", 2048), ("2g", 2048), ("1.5G", 1536)]
        {
            assert_eq!(parse_mib(text), Ok(mib), "{text}");
        }
        for text in
            ["", "0", "x", "1.3", "-1", "2TiB", "1..5", "1025GiB", "99999999999999999999", "1.0000000000000000000001"]
        {
            assert!(parse_mib(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_may_have_any_value() {
        assert_eq!(parse_variable("A=b=c"), Ok(Variable { name: "A".into(), value: "b=c".into() }));
        assert_eq!(parse_variable("A="), Ok(Variable { name: "A".into(), value: String::new() }));
        assert!(parse_variable("A").is_err() && parse_variable("=b").is_err());
    }

    #[test]
    fn volumes_are_written_as_the_python_client_writes_them() {
        let json = |volume: Result<Volume, String>| serde_json::to_value(volume.unwrap()).unwrap();
        assert_eq!(
            json(parse_persistent_volume("name=data,mount=/data,size_mib=1GiB")),
            serde_json::json!({"mount": "/data", "persistence": "host", "name": "data", "size_mib": 1024})
        );
        assert_eq!(
            json(parse_ephemeral_volume("mount=/tmp/x,size_mib=100")),
            serde_json::json!({"mount": "/tmp/x", "ephemeral": true, "size_mib": 100})
        );
        assert_eq!(
            json(parse_immutable_volume("mount=/lib,ref=ab,use_latest=False")),
            serde_json::json!({"mount": "/lib", "ref": "ab", "use_latest": false})
        );
        for bad in
            ["", "mount=/x", "name=a,mount=/x,size_mib=0", "name=a,name=b", "name=a,mount=/x,size_mib=1,color=red"]
        {
            assert!(parse_persistent_volume(bad).is_err(), "{bad}");
        }
        assert!(parse_persistent_volume("name=a,mount=/x,size_mib=1,persistence=moon").is_err());
        assert!(parse_immutable_volume("mount=/lib,ref=ab,use_latest=maybe").is_err());
    }
}
