//! What can be wrong with the settings. Each error is one line that names the thing, in etcd's words
//! where etcd has words for it.

/// Why a member does not start with the settings it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No flag is called so.
    #[error("flag provided but not defined: -{name}")]
    UnknownFlag {
        /// The name without dashes and value.
        name: String,
    },
    /// The command line ends where a value should stand.
    #[error("flag needs an argument: -{name}")]
    MissingValue {
        /// The flag.
        name: String,
    },
    /// The value does not have the form the flag asks for.
    #[error("invalid value {value:?} for {origin}: {reason}")]
    InvalidValue {
        /// What was given.
        value: String,
        /// `flag -NAME`, a variable, or a key of the configuration file.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A word that is no flag.
    #[error("{word:?} is not a valid flag")]
    StrayArgument {
        /// The word.
        word: String,
    },
    /// The flag exists in etcd; the feature does not exist here yet.
    #[error("--{name}: not supported in this version")]
    NotSupported {
        /// The flag.
        name: String,
    },
    /// The configuration file cannot be read or understood.
    #[error("config file {path}: {reason}")]
    File {
        /// Where it should be.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that are well-formed one by one and wrong together.
    #[error("{0}")]
    Contradiction(String),
}
