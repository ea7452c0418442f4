"""Topics, tasks, questions and languages of our prompts."""

TOPICS = """a neighborhood library; the first day at a new job; growing tomatoes on a balcony; a lost umbrella; learning to swim as an adult; a small bakery;
the history of the bicycle; why the sky is blue; a trip to the mountains; saving water at home; an old lighthouse; a robot that learns to cook; the life of honeybees;
a school garden; how bridges are built; the smell of rain; moving to a new city; a chess club; the sound of a violin; a broken dishwasher; public transport; a winter market;
the first steam engines; keeping a diary; a stray cat; baking bread; space telescopes; a family reunion; a night train; the value of sleep; a museum of clocks; learning Spanish;
recycling glass; a football match in the rain; how vaccines work; a forgotten letter; a coffee shop on the corner; the deep sea; volcanoes; a group of friends who start a band;
working from home; a healthy breakfast; wind energy; the invention of paper; a birthday party for a grandmother; camping with children; photography for beginners; stage fright;
a used car; a community theatre; the moon landing; maps and how to read them; a vegetarian dinner; running a first half marathon; an allergy to peanuts; noise in big cities;
an apprenticeship as a carpenter; the migration of birds; a mistake in an invoice; a late delivery; the rules of basketball; earthquakes; a talking parrot; the color green;
a summer internship; a power cut; the Roman aqueducts; gardening tools; a delayed flight; a new mobile phone; river fishing; how computers add numbers; a wedding speech;
teaching a dog to sit; the printing press; an art class for retired people; glaciers; a science fair; housework shared fairly; a secret recipe; an unusual pet; snow; the tides;
a lost suitcase; learning to play the piano; a village without cars; the first snowfall; jigsaw puzzles; good manners at the table; a night in the desert; plastic bags""".replace(
    "\n", " "
).split(";")
TOPICS = [topic.strip() for topic in TOPICS]

TASKS = """Write a short story about {}.|Write a poem about {}.|Write a blog post about {}.|Write an email to a friend about {}.|Write a letter of complaint about {}.|Write a product review about {}.
Give me advice about {}.|Explain {} to a child.|Write a song about {}.|List some facts about {}.|Write a dialogue between two people about {}.|Write a summary of what people should know about {}.
Write a newspaper article about {}.|What are the advantages and disadvantages of {}?|Write a joke about {}.|Write a speech about {}.|Write a social media post about {}.|Make a plan for a day about {}.
Write an advertisement about {}.|What is interesting about {}?|Write a riddle about {}.|Give three ideas for a talk about {}.|Write an invitation to an event about {}.|Describe {}.
Write a limerick about {}.|Write a rubric to mark an essay about {}.|Write a short biography of someone who loves {}.|Come up with a slogan for {}.|Write a proposal for a project about {}.|Compare two opinions about {}.
Write a cover letter that mentions {}.|Write a scene of a play about {}.|Give a definition and an example of {}.|Write a list of questions about {}.|How would you start a conversation about {}?|Write a thank-you note about {}.""".replace(
    "\n", "|"
).split("|")

ABOUT_TITLES = [
    "What is {}?",
    "Explain {} in simple words.",
    "Write a paragraph about {}.",
    "Why does {} matter?",
    "Give a short overview of {}.",
    "What should a student know about {}?",
    "Tell me something about {}.",
]
ABOUT_TERMS = [
    "What does {} mean?",
    "Define {}.",
    "Explain the term {} with an example.",
    "What is meant by {}?",
    "Use {} in a sentence and explain it.",
]
YES_NO = [
    "Is {} worth a visit?",
    "Is {} a good topic for a school essay?",
    "Would you recommend reading about {}?",
    "Can children learn about {}?",
    "Is {} older than one hundred years?",
    "Do most people know {}?",
]
LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "pt": "Portuguese"}
OPTIONS = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
