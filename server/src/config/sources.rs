//! Where settings come from: the command line, the environment, a YAML file.
//!
//! All three end in one map from flag to text, and each text has been checked against the flag's
//! [`Kind`](super::flags::Kind) by then, so that an error can still say where the value was written.

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, Scalar, Yaml};

use super::error::ConfigError;
use super::flags::{self, Flag, Kind};

/// Largest configuration file read.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Values that somebody wrote down, by flag.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
}

impl Given {
    /// The value somebody gave.
    pub(super) fn explicit(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value somebody gave, or the default.
    pub(super) fn text(&self, name: &'static str) -> &str {
        let flag = flags::find(name).unwrap_or_else(|| panic!("--{name} is in the table"));
        self.explicit(name).unwrap_or(flag.default)
    }

    /// All that was given, in the order of names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }

    fn set(&mut self, flag: &'static Flag, value: &str, origin: &str) -> Result<(), ConfigError> {
        flag.check(value).map_err(|reason| ConfigError::InvalidValue {
            value: value.to_owned(),
            origin: origin.to_owned(),
            reason,
        })?;
        flag.refuse_unsupported(value)?;
        self.values.insert(flag.name, value.to_owned());
        Ok(())
    }
}

/// What the command line asks for.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    pub(super) given: Given,
    pub(super) config_file: Option<String>,
    pub(super) wants_version: bool,
    pub(super) wants_help: bool,
}

/// Reads the command line as Go's flag package does: one dash or two, `=value` or the next word, bare
/// booleans, the last one wins.
pub(super) fn command_line(args: &[String]) -> Result<CommandLine, ConfigError> {
    let mut line = CommandLine::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let name = match word.strip_prefix("--").or_else(|| word.strip_prefix('-')) {
            Some("") if word == "--" => match words.next() {
                Some(word) => return Err(ConfigError::StrayArgument { word: word.clone() }),
                None => break,
            },
            Some(name) if !name.is_empty() && !name.starts_with(['-', '=']) => name,
            _ => return Err(ConfigError::StrayArgument { word: word.clone() }),
        };
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        if matches!(name, "help" | "h") {
            line.wants_help = true;
            continue;
        }
        if name == "version" {
            let value = inline.unwrap_or_else(|| "true".to_owned());
            line.wants_version = super::value::parse_bool(&value).map_err(|reason| {
                ConfigError::InvalidValue { value, origin: "flag -version".to_owned(), reason }
            })?;
            continue;
        }
        let flag = flags::find(name);
        if name != "config-file" && flag.is_none() {
            return Err(unknown(name));
        }
        let value = match inline {
            Some(value) => value,
            None if flag.is_some_and(|flag| flag.kind == Kind::Bool) => "true".to_owned(),
            None => words
                .next()
                .cloned()
                .ok_or_else(|| ConfigError::MissingValue { name: name.to_owned() })?,
        };
        match flag {
            Some(flag) => line.given.set(flag, &value, &format!("flag -{name}"))?,
            None => line.config_file = Some(value),
        }
    }
    Ok(line)
}

/// A name that is not in the table. etcd's experimental flags of older releases were features.
fn unknown(name: &str) -> ConfigError {
    if name.starts_with("experimental-") {
        ConfigError::NotSupported { name: name.to_owned() }
    } else {
        ConfigError::UnknownFlag { name: name.to_owned() }
    }
}

/// Adds what the environment sets and the command line does not. Returns variables that look like
/// settings and are none.
pub(super) fn environment(
    given: &mut Given,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<String>, ConfigError> {
    let mut unrecognized = Vec::new();
    for (variable, value) in variables {
        if !variable.starts_with("ETCD_") || variable == "ETCD_CONFIG_FILE" {
            continue;
        }
        match flags::FLAGS.iter().find(|flag| flag.variable() == *variable) {
            // The empty text is "not set", as in etcd.
            Some(_) if value.is_empty() => {}
            Some(flag) if given.explicit(flag.name).is_some() => {}
            Some(flag) => given.set(flag, value, variable)?,
            None if variable.starts_with("ETCD_EXPERIMENTAL_") => {
                return Err(ConfigError::NotSupported {
                    name: variable["ETCD_".len()..].to_lowercase().replace('_', "-"),
                });
            }
            None => unrecognized.push(variable.clone()),
        }
    }
    Ok(unrecognized)
}

/// Reads a configuration file. Returns the keys that are ignored because etcd retired them.
pub(super) fn file(path: &str) -> Result<(Given, Vec<String>), ConfigError> {
    let error = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let bytes_max = FILE_BYTES_MAX;
    let metadata = std::fs::metadata(path).map_err(|e| error(e.to_string()))?;
    if metadata.len() > bytes_max {
        return Err(error(format!("{} bytes; at most {bytes_max} are read", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| error("not UTF-8".to_owned()))?;
    yaml(&text, path)
}

fn yaml(text: &str, path: &str) -> Result<(Given, Vec<String>), ConfigError> {
    let error = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let documents = Yaml::load_from_str(text).map_err(|e| error(e.to_string()))?;
    let mut given = Given::default();
    let mut retired = Vec::new();
    let mapping = match documents.as_slice() {
        [] | [Yaml::Value(Scalar::Null)] => return Ok((given, retired)),
        [Yaml::Mapping(mapping)] => mapping,
        [_] => return Err(error("not a mapping of settings".to_owned())),
        _ => return Err(error("more than one document".to_owned())),
    };
    for (key, value) in mapping {
        let key = key.as_str().ok_or_else(|| error("a key is not a text".to_owned()))?;
        let prefix = match key {
            "client-transport-security" => "",
            "peer-transport-security" => "peer-",
            _ if flags::RETIRED_KEYS.contains(&key) => {
                retired.push(key.to_owned());
                continue;
            }
            _ => {
                file_value(&mut given, key, key, value, &error)?;
                continue;
            }
        };
        match value {
            Yaml::Value(Scalar::Null) => {}
            Yaml::Mapping(inner) => {
                for (inner_key, value) in inner {
                    let inner_key = inner_key
                        .as_str()
                        .ok_or_else(|| error("a key is not a text".to_owned()))?;
                    // Inside these two mappings etcd leaves the word "cert" away.
                    let name = match inner_key {
                        "allowed-cn" => "cert-allowed-cn",
                        "allowed-hostname" => "cert-allowed-hostname",
                        name => name,
                    };
                    let name = match (prefix, name) {
                        ("", "cert-allowed-hostname") => "client-cert-allowed-hostname".to_owned(),
                        _ => format!("{prefix}{name}"),
                    };
                    file_value(&mut given, &name, &format!("{key}.{inner_key}"), value, &error)?;
                }
            }
            _ => return Err(error(format!("{key}: not a mapping"))),
        }
    }
    Ok((given, retired))
}

/// One key of the file. Durations are integers of nanoseconds in etcd's files; texts are taken too.
fn file_value(
    given: &mut Given,
    name: &str,
    key: &str,
    value: &Yaml<'_>,
    error: &impl Fn(String) -> ConfigError,
) -> Result<(), ConfigError> {
    let flag = match flags::find(name) {
        Some(flag) => flag,
        None if name.starts_with("experimental-") => return Err(unknown(name)),
        None => return Err(error(format!("unknown key {key:?}"))),
    };
    let text = match value {
        Yaml::Value(Scalar::Null) => return Ok(()),
        Yaml::Value(Scalar::Integer(nanos)) if flag.kind == Kind::Duration => format!("{nanos}ns"),
        Yaml::Sequence(items) => items
            .iter()
            .map(scalar)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| error(format!("{key}: not a list of texts")))?
            .join(","),
        value => scalar(value).ok_or_else(|| error(format!("{key}: not a single value")))?,
    };
    if text.is_empty() {
        return Ok(());
    }
    given.set(flag, &text, &format!("key {key} of config file"))
}

fn scalar(value: &Yaml<'_>) -> Option<String> {
    match value {
        Yaml::Value(Scalar::String(text)) => Some(text.to_string()),
        Yaml::Value(Scalar::Integer(number)) => Some(number.to_string()),
        Yaml::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        Yaml::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<Vec<(&'static str, String)>, String> {
        yaml(text, "f.yaml")
            .map(|(given, _)| given.iter().map(|(name, v)| (name, v.to_owned())).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_sets_flags_by_their_names() {
        let text = "name: m1\nheartbeat-interval: 50\npre-vote: true\n\
                    watch-progress-notify-interval: 5000000000\nwarning-apply-duration: 1s\n\
                    log-outputs: [stderr, stdout]\ndata-dir:\ncors: ''\nproxy: 'off'\n\
                    client-transport-security: {client-cert-auth: false, cert-file: }\n";
        let expected = [
            ("client-cert-auth", "false"),
            ("heartbeat-interval", "50"),
            ("log-outputs", "stderr,stdout"),
            ("name", "m1"),
            ("pre-vote", "true"),
            ("warning-apply-duration", "1s"),
            ("watch-progress-notify-interval", "5000000000ns"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        assert_eq!(given(text), Ok(expected.to_vec()));
        assert_eq!(yaml(text, "f").expect("good file").1, ["proxy"]);
        assert_eq!(given(""), Ok(vec![]));
        assert_eq!(given("# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn a_bad_file_is_refused_by_one_line() {
        let table = [
            ("- a\n- b\n", "config file f.yaml: not a mapping of settings"),
            ("nmae: m1\n", "config file f.yaml: unknown key \"nmae\""),
            ("1: m1\n", "config file f.yaml: a key is not a text"),
            ("name: {a: b}\n", "config file f.yaml: name: not a single value"),
            ("name: a\n---\nname: b\n", "config file f.yaml: more than one document"),
            (
                "peer-transport-security: 3\n",
                "config file f.yaml: peer-transport-security: not a mapping",
            ),
            (
                "heartbeat-interval: soon\n",
                "invalid value \"soon\" for key heartbeat-interval of config file: parse error",
            ),
            (
                "client-transport-security: {auto-tls: true}\n",
                "--auto-tls: not supported in this version",
            ),
            (
                "peer-transport-security: {auto-tls: true}\n",
                "--peer-auto-tls: not supported in this version",
            ),
            (
                "client-transport-security: {allowed-cn: x}\n",
                "config file f.yaml: unknown key \"client-transport-security.allowed-cn\"",
            ),
            ("experimental-x: 1\n", "--experimental-x: not supported in this version"),
        ];
        for (text, expected) in table {
            assert_eq!(given(text), Err(expected.to_owned()), "{text:?}");
        }
        let error = given("name: [a\n").expect_err("unbalanced bracket");
        assert!(error.starts_with("config file f.yaml: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
