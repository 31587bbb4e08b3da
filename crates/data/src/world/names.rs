//! The words that the world is made of. Which belongs to whom is decided by the seed, in `mod.rs`.

pub(super) const WOMEN: [&str; 20] = [
    "Mara", "Ada", "Nell", "Ruth", "Clara", "Ivy", "Rosa", "Lena", "Edith", "Hazel", "Nora",
    "Vera", "Flora", "Greta", "Olive", "Stella", "Tilda", "Wanda", "Anna", "Daisy",
];

pub(super) const MEN: [&str; 20] = [
    "Tom", "Ben", "Otto", "Hugo", "Felix", "Karl", "Leo", "Max", "Ned", "Oscar", "Paul", "Rufus",
    "Sam", "Theo", "Victor", "Walter", "Emil", "Jack", "Martin", "Simon",
];

pub(super) const TOWNS: [&str; 12] = [
    "Elmford",
    "Westby",
    "Marlow",
    "Tarnwick",
    "Stonely",
    "Ashdale",
    "Millbrook",
    "Thornby",
    "Harwell",
    "Oakham",
    "Fernley",
    "Redmoor",
];

/// Three towns lie in each region, and one river flows through it.
pub(super) const REGIONS: [&str; 4] = ["Northmark", "Southvale", "Eastmoor", "Westland"];

pub(super) const RIVERS: [&str; 4] = ["Arrow", "Lark", "Swift", "Otter"];

pub(super) const PRODUCTS: [&str; 12] = [
    "bread", "glass", "bells", "ropes", "clocks", "boats", "candles", "paper", "soap", "cheese",
    "shoes", "hats",
];

pub(super) const LANDMARKS: [&str; 12] = [
    "old mill",
    "stone bridge",
    "clock tower",
    "white lighthouse",
    "round library",
    "red windmill",
    "great oak",
    "copper fountain",
    "iron gate",
    "open theatre",
    "long wall",
    "marble statue",
];

/// A job, where it is done, and what is done there. All take "a": otherwise the article would
/// give the answer of a question away.
pub(super) const JOBS: [(&str, &str, &str); 10] = [
    ("baker", "bakery", "bakes bread before the sun is up"),
    ("teacher", "school", "teaches the children to read and to count"),
    ("farmer", "farm", "grows corn and beans"),
    ("sailor", "harbour", "sails a small boat down the river"),
    ("doctor", "clinic", "looks after people who are ill"),
    ("miller", "mill", "grinds the corn of the farmers"),
    ("potter", "pottery", "makes cups and bowls out of clay"),
    ("weaver", "weaving house", "weaves warm blankets"),
    ("gardener", "garden", "plants roses and apple trees"),
    ("carpenter", "workshop", "builds tables and chairs"),
];

/// A pet and what it does.
pub(super) const PETS: [(&str, &str); 8] = [
    ("dog", "runs after every ball"),
    ("cat", "sleeps beside the stove"),
    ("rabbit", "hops about in the grass"),
    ("horse", "pulls the cart to the market"),
    ("parrot", "says good morning to everyone"),
    ("goat", "eats the leaves of the hedge"),
    ("hen", "lays an egg every day"),
    ("turtle", "walks very slowly"),
];

pub(super) const PET_NAMES: [&str; 20] = [
    "Pip", "Dot", "Biscuit", "Button", "Comet", "Dusty", "Echo", "Fig", "Ginger", "Juno", "Kit",
    "Lucky", "Misty", "Nugget", "Patch", "Pepper", "Rusty", "Sunny", "Toffee", "Ziggy",
];

pub(super) const FOODS: [&str; 10] = [
    "soup", "pears", "plums", "honey", "pancakes", "carrots", "noodles", "cherries", "apples",
    "walnuts",
];

pub(super) const COLOURS: [&str; 8] =
    ["red", "blue", "green", "yellow", "purple", "white", "brown", "orange"];

/// Things that are lost, found, given and carried.
pub(super) const OBJECTS: [&str; 12] = [
    "umbrella",
    "basket",
    "lamp",
    "letter",
    "apple cake",
    "cup",
    "old map",
    "ladder",
    "kite",
    "orange scarf",
    "key",
    "iron pot",
];

/// Things that come in numbers.
pub(super) const COUNTED: [(&str, &str); 8] = [
    ("apple", "apples"),
    ("egg", "eggs"),
    ("coin", "coins"),
    ("candle", "candles"),
    ("pear", "pears"),
    ("button", "buttons"),
    ("stone", "stones"),
    ("cup", "cups"),
];

pub(super) const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

pub(super) const WEATHER: [&str; 6] = [
    "The sun was shining",
    "It was raining",
    "It was a cold and windy day",
    "Snow lay on the roofs",
    "The sky was grey",
    "It was warm and still",
];

/// Where people go.
pub(super) const PLACES: [&str; 5] = ["market", "harbour", "school", "mill", "bakery"];
