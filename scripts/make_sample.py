"""Writes the sample that ships with the package: invented products, a JSON object a line, gzipped.

In: a seed and the word lists below. Out: `amazon_desc/assets/sample.json.gz` in the format of
`trn.json.gz` (uid, title, content, target_ind, target_rel), the same bytes at every run. Brands,
products and sentences are invented; the faults of the real data set are planted among them.
Each combination of item, colour and brand has one title, so no split by title shares any.
Nothing is cleaned here.
"""

import argparse
import gzip
import json
import random
import re
from pathlib import Path
from typing import NamedTuple

SAMPLE = Path(__file__).resolve().parents[1] / "amazon_desc" / "assets" / "sample.json.gz"
SEED = 20240517
NUM_TITLES = 5_440
NUM_LINES = 6_500

# kind: item | materials | uses, after "for" | features, after "with"
CATALOGUE = """
textile: Picnic Blanket | cotton; fleece | lazy afternoons in the park; lunch on the grass; \
open-air concerts | a waterproof back; a leather carry strap; a soft quilted top
textile: Beach Towel | cotton; linen | long days by the sea; drying off after a swim; the side \
of the pool | a looped hem; a deep soft pile; a hidden key pocket
textile: Throw Pillow | velvet; linen | a tired sofa; reading in bed; the corner of an old \
armchair | a hidden zip; a plump inner pad; piped edges
textile: Shower Curtain | linen; polyester | a small bathroom; a narrow tub; a fresh start to \
the day | twelve metal eyelets; a weighted hem; a water-repellent finish
textile: Table Runner | jute; linen | Sunday dinners; a festive table; a bare sideboard | mitred \
corners; a woven stripe; hand-tied tassels
textile: Bath Mat | cotton; bamboo | wet feet in the morning; the space beside the tub; a cold \
tiled floor | a non-slip base; a thick tufted top; rounded corners
textile: Kitchen Apron | canvas; denim | baking with the children; a messy barbecue; cooking for \
a crowd | two deep pockets; an adjustable neck strap; long waist ties
textile: Oven Mitt | cotton; silicone | hot trays; lifting bread from the stove; heavy cast pots \
| a long cuff; a heat-proof lining; a hanging loop
textile: Tote Bag | canvas; jute | the weekly market; library books; a trip to the farmers' \
stall | long handles; an inner pocket; a reinforced bottom
textile: Messenger Satchel | leather; canvas | a laptop and papers; the ride to work; a busy \
student | a brass buckle; a padded sleeve; a wide shoulder strap
textile: Hiking Backpack | nylon; canvas | steep mountain trails; a weekend in the hills; long \
walks with friends | a rain cover; a padded hip belt; side pockets for bottles
textile: Duffel Holdall | nylon; leather | a quick trip to the gym; short holidays; a night away \
from home | a separate shoe pocket; double zips; sturdy grab handles
textile: Sleeping Bag | fleece; nylon | cold nights in the tent; summer camps; a sleepover on \
the floor | a two-way zip; a warm hood; a compression sack
textile: Camping Hammock | nylon; cotton | an afternoon nap between two trees; the back garden; \
slow days at the lake | tree-friendly straps; strong steel hooks; a built-in stuff sack
textile: Straw Hat | raffia; seagrass | picking berries; a day on the boat; pulling weeds at \
noon | a wide brim; a chin cord; a woven band
textile: Wool Beanie | merino; acrylic | frosty mornings; skating on the pond; a walk in the \
snow | a folded brim; a fluffy bobble; a soft inner band
textile: Rain Poncho | polyester; nylon | sudden showers; a wet festival; cycling through a \
storm | a roomy hood; side snaps; a pouch of its own
textile: Knit Scarf | merino; acrylic | frosty walks; waiting for the bus; ice markets in \
December | a ribbed edge; long fringes; a small button loop
textile: Yoga Mat | rubber; cork | morning stretches; a calm hour after work; balance practice | \
a sticky underside; alignment lines; a carry sling
textile: Dog Bed | fleece; canvas | an old hound; puppies that nap all day; the warm spot by the \
fire | a washable cover; raised sides; a memory foam core
textile: Cat Tunnel | polyester; felt | kittens at play; rainy afternoons indoors; a curious pet \
| a crackling lining; a dangling ball; a peep hole
textile: Window Blind | linen; bamboo | a bright bedroom; afternoon glare; a quiet study | a \
smooth chain; a blackout layer; easy brackets
wood: Bookshelf Ladder | oak; pine | a crowded study; tall walls; a growing collection of novels \
| five open tiers; a leaning frame; wall anchors
wood: Bedside Table | walnut; oak | a glass of water at night; a small bedroom; a lamp and a \
good novel | one shallow drawer; tapered legs; a lower shelf
wood: Step Stool | beech; pine | high cupboards; small children at the sink; a quick repair | \
two wide treads; a carry hole; rubber feet
wood: Chopping Board | maple; bamboo | onions and herbs; carving a roast; a slow Sunday cook | a \
juice groove; side grips; a hanging cord
wood: Salad Bowl | acacia; cherry | fresh leaves from the garden; a shared lunch; fruit on the \
counter | matching servers; a wide rim; a hand-rubbed finish
wood: Spice Rack | pine; walnut | twenty little jars; a tidy cooking corner; a keen home chef | \
three stepped shelves; a front rail; screws for the wall
wood: Puzzle Box | birch; cherry | clever children; a quiet evening; secret letters | a sliding \
lid; seven hidden moves; carved sides
wood: Stacking Tower | beech; birch | tiny builders; a playroom floor; towers that always fall | \
rounded edges; a storage sack; water-based paint
wood: Rocking Horse | pine; beech | a brave little rider; the nursery; a first birthday | a yarn \
mane; safe foot pegs; smooth curved runners
wood: Chess Set | walnut; maple | winter evenings; a thoughtful friend; a club tournament | \
weighted pieces; a folding board; felt-lined slots
wood: Train Track | birch; maple | small engineers; a long rainy Saturday; the living room rug | \
a magnetic engine; a tall bridge; curved rails
wood: Easel Stand | beech; pine | weekend painters; a sunny studio; drawing outdoors | a tilting \
frame; a brush ledge; folding legs
wood: Picture Frame | oak; walnut | family portraits; a holiday snapshot; an empty hallway wall \
| clear glazing; a sturdy easel back; a cream mount
wood: Bird Feeder | cedar; pine | finches and sparrows; a cold January; a view from the kitchen \
| a sloping roof; a seed window; a rope hanger
wood: Plant Trellis | cedar; bamboo | climbing beans; sweet peas; a plain garden wall | pointed \
stakes; a fan shape; rust-free pins
wood: Coat Rack | oak; beech | a busy hallway; wet jackets; guests on a winter night | six \
turned pegs; a top shelf; hidden wall plates
metal: Desk Lamp | steel; aluminium | late study nights; a dim office; fine needlework | a \
bendable neck; three light levels; a heavy base
metal: Camping Lantern | steel; aluminium | dark campsites; a power cut; stories around the tent \
| a folding handle; a frosted globe; forty hours of light
metal: Pocket Torch | aluminium; steel | night walks with the dog; the glove box; a dark cellar \
| a wide beam; a wrist cord; a clip for the belt
metal: Tea Kettle | steel; copper | a slow breakfast; the gas stove; guests who stay for hours | \
a cheerful whistle; a cool-touch handle; a drip-free spout
metal: Frying Pan | cast iron; aluminium | crisp potatoes; eggs in the morning; a quick supper | \
a pouring lip; a riveted handle; a non-stick surface
metal: Soup Pot | steel; enamel | hearty stews; a big family; a freezing evening | a tight glass \
lid; two loop handles; a thick flat bottom
metal: Coffee Grinder | steel; copper | a strong morning cup; freshly roasted beans; slow \
weekends | a folding crank; eleven settings; a clear hopper
metal: Bread Bin | tin; steel | crusty loaves; a narrow counter; rolls from the baker | a roll- \
up front; small air holes; a snug lid
metal: Cake Stand | enamel; brass | birthday parties; afternoon scones; a wedding table | a \
scalloped edge; a tall foot; a domed cover
metal: Toolbox Chest | steel; tin | a home workshop; spanners and bolts; the back of the van | a \
lift-out tray; two strong latches; a padlock hasp
metal: Garden Trowel | steel; copper | potting seedlings; heavy clay; a row of lettuces | a \
depth scale; an ash grip; a sharp tip
metal: Pruning Saw | steel; titanium | stubborn branches; rose bushes; a tidy orchard | a safety \
catch; a folding blade; cushioned grips
metal: Bicycle Bell | brass; aluminium | crowded paths; the school run; a cheerful commute | a \
clear ring; a tool-free clamp; a thumb lever
metal: Wall Clock | brass; steel | a silent kitchen; a classroom; people who run late | a \
sweeping hand; large numerals; a quiet movement
metal: Garden Bench | iron; teak | two old friends; the shade of an apple tree; a sunny terrace \
| curved arms; wide slats; a high back
metal: Fire Pit | iron; steel | toasting marshmallows; autumn nights; a circle of chairs | a \
mesh guard; a poker hook; three stout legs
metal: Wind Chime | brass; aluminium | a breezy porch; a restful garden; the branch of a pear \
tree | six tuned tubes; a wooden striker; a long hook
glass: Flower Vase | crystal; stoneware | tulips in April; a bunch of wild daisies; the middle \
of the table | a narrow neck; a heavy foot; a rippled side
glass: Coffee Mug | stoneware; porcelain | a strong brew; cocoa by the window; early meetings | \
a big round handle; a glazed inside; a wide foot
glass: Water Carafe | crystal; glass | a hot afternoon; the dining table; lemon and mint | a \
cork stopper; a slim waist; measured marks
glass: Soap Dispenser | porcelain; glass | a guest bathroom; sticky fingers; the kitchen sink | \
a rust-proof pump; a wide mouth; a drip ring
glass: Butter Dish | porcelain; stoneware | warm toast; a country breakfast; soft spreads | a \
close lid; a round knob; a raised rim
glass: Candle Holder | glass; terracotta | a long bath; dinner for two; the windowsill in \
December | a wax tray; a swirled wall; a curved ring
glass: Plant Pot | terracotta; stoneware | basil and thyme; a shady balcony; succulents on a \
shelf | a drain hole; a matching saucer; a ribbed wall
glass: Teapot Infuser | porcelain; glass | loose leaves; a chat with a neighbour; a rainy break \
| a fine mesh basket; a curved spout; a lid that stays on
plastic: Lunch Box | polypropylene; recycled plastic | sandwiches and fruit; hungry pupils; a \
day at the office | three sections; a clip lid; a tiny sauce cup
plastic: Water Bottle | tritan; recycled plastic | a hard workout; the desk; hot summer rides | \
a flip straw; a carry ring; a leak-proof cap
plastic: Phone Stand | acrylic; silicone | video calls; recipes on the counter; films in bed | a \
cable slot; a tilting arm; soft pads
plastic: Storage Crate | polypropylene; recycled plastic | toys on the floor; a messy garage; \
winter clothes | stacking corners; a hinged top; hand slots
plastic: Watering Can | recycled plastic; polypropylene | thirsty ferns; a rooftop garden; \
tomatoes in July | a long rose; a balanced grip; litre marks
plastic: Alarm Clock | acrylic; bamboo fibre | heavy sleepers; a shared dorm; early trains | a \
gentle chime; a snooze bar; a dimmed screen
plastic: Kite Kit | ripstop; polyester | windy beaches; a grandparent and a child; open fields | \
a bright tail; a winding reel; flexible rods
plastic: Laundry Basket | recycled plastic; willow | a pile of shirts; a student flat; wash day \
| woven sides; cut-out grips; a fold-flat base
"""
BRAND_NAMES = """
Brindlemoor Tavenholt Quillmere Osterfell Hazelquay Norrivane Pellwick Thrushden Marrowby Wexcombe
Fenlarke Cobblewyn Dunmarrow Elderquist Farrowmint Gildersby Hollowick Ivenmoor Jorraby Kestrane
Lindavoe Mossgrave Oakenvere Rookhampton Saltmerrow Tillowby Umberlane Wrenfold Yarrowick Zephrin
Bluntmarsh Copperwyne Drizzlewood Eddlestowe Foxhallow Grindlewick Hethermoor Inglemarch Knollbury
Lanternby Merriweld Noonstead Pondersley Quaverly Rustleigh Snowdrift&Co Thimbleby Velderane
"""
COLOUR_NAMES = """
teal crimson navy olive ivory charcoal coral mustard lavender burgundy turquoise emerald indigo
peach scarlet cobalt maroon plum silver beige
"""
BRANDS = BRAND_NAMES.split()
COLOURS = COLOUR_NAMES.split()

OPENINGS = (
    "The {brand} {item} in {colour} {material} is made for {use}.",
    "Meet the {colour} {item} from {brand}, made of {material} for {use}.",
    "{brand} makes this {colour} {item} from {material}, so it is ready for {use}.",
    "This {item} by {brand} comes in {colour} {material} and is just right for {use}.",
    "Need something for {use}? Try the {colour} {item} from {brand}, made of fine {material}.",
    "If you want the best for {use}, try the {brand} {item} in {colour}. It is made of {material}.",
    "Think of {use} and the {colour} {item} by {brand} comes to mind. We chose {material} for it.",
    "New from {brand}: {a_colour} {item} of {material} for {use}.",
    "With its {colour} {material}, the {brand} {item} brings new life to {use}.",
    "From the workshop of {brand} comes {a_colour} {item} in {material}, built for {use}.",
)
FEATURES = (
    "It has {feature} and {feature2}.",
    "You'll like {feature} and, just as much, {feature2}.",
    "Every {item} comes with {feature} and {feature2}.",
    "It's easy to use thanks to {feature} and {feature2}.",
    "We added {feature} - and {feature2} - because small things matter.",
    "Details such as {feature} set it apart.",
    "There is more to it: {feature} and {feature2}.",
    "Look for {feature}, a detail that others leave out.",
)
SECOND_USES = (
    "It works just as well for {use2}.",
    "Our customers also love it for {use2}.",
    "Keep it at hand for {use2}, too.",
    "It's no less useful for {use2}.",
)
CARE = {
    "textile": (
        "Machine wash cold and hang to dry.",
        "The {material} stays soft after many washes.",
        "Wash the {material} by hand and it won't fade.",
    ),
    "wood": (
        "Wipe with a damp cloth and oil it once a year.",
        "The {material} is sanded smooth and sealed.",
        "Each piece of {material} has a grain of its own.",
    ),
    "metal": (
        "The {material} won't rust or bend.",
        "Wipe dry after use and the {material} keeps its shine.",
        "Solid {material} means it will last for years.",
    ),
    "glass": (
        "It's safe in the dishwasher.",
        "The {material} is fired twice, so it does not chip.",
        "Rinse in warm water and dry with a soft cloth.",
    ),
    "plastic": (
        "It's light, tough and free of harmful chemicals.",
        "The {material} shrugs off knocks and scratches.",
        "Rinse it under the tap and it looks like new.",
    ),
}
CLOSINGS = (
    "A lovely gift for any home.",
    "Order the {item} today and enjoy it for years.",
    "Made by hand in small numbers.",
    "The {colour} finish goes with almost anything.",
    "{brand} backs it with a two-year promise.",
    "Once you own this {item}, you'll wonder how you lived without it.",
    "Another simple and honest piece from {brand}.",
    "Also sold in other shades if {colour} isn't for you.",
)
# what a title may add, and what the description then says of it
EXTRAS = {
    "2-Pack": "The pack holds two.",
    "Set of 3": "You get a set of three.",
    "Set of 4": "You get a set of four.",
    "Large": "This is the large size, for those who need more room.",
    "Small": "This is the small size, which fits anywhere.",
    "Gift Boxed": "It arrives in a gift box with a ribbon.",
    "Limited Edition": "This is a limited edition, so don't wait too long.",
}
TITLES = (
    "{brand} {Colour} {Material} {item}",
    "{brand} {Colour} {Material} {item}, {extra}",
    "{brand} {item}, {Colour}",
    "{brand} {item} - {Colour}, {extra}",
    "{Colour} {item} by {brand}",
    "{Colour} {Material} {item} by {brand}, {extra}",
    "{brand} {Material} {item} ({Colour})",
    "{item} in {Colour} {Material} by {brand}",
)


class Item(NamedTuple):
    name: str
    kind: str
    materials: tuple[str, ...]
    uses: tuple[str, ...]
    features: tuple[str, ...]


class Product(NamedTuple):
    title: str
    words: dict[str, str]
    kind: str


def parse_catalogue(text: str) -> list[Item]:
    """Reads the lines above: `kind: name | material; .. | use; .. | feature; ..`."""
    items = []
    for line in text.strip().splitlines():
        kind, rest = line.split(": ", 1)
        name, *lists = (part.strip() for part in rest.split("|"))
        items.append(Item(name, kind, *(tuple(part.split("; ")) for part in lists)))
    return items


CATALOGUE_ITEMS = parse_catalogue(CATALOGUE)
ITEMS = [item.name for item in CATALOGUE_ITEMS]


def with_article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def make_product(item: Item, colour: str, brand: str, rng: random.Random) -> Product:
    """One combination's title, and the words that all its descriptions are built from."""
    pattern = rng.choice(TITLES)
    material, extra = rng.choice(item.materials), rng.choice(list(EXTRAS))
    words = {"item": item.name, "brand": brand, "colour": colour, "a_colour": with_article(colour)}
    words["material"] = material
    words["use"], words["use2"] = rng.sample(item.uses, 2)
    words["feature"], words["feature2"] = rng.sample(item.features, 2)
    words["extra"] = extra if "{extra}" in pattern else ""
    title = pattern.format(Colour=colour.title(), Material=material.title(), **words)
    return Product(title, words, item.kind)


def make_description(product: Product, rng: random.Random) -> str:
    """25 to 60 words: an opening, features, a second use, care, a closing; some are left out."""
    middle = [rng.choice(FEATURES), rng.choice(CARE[product.kind])]
    if rng.random() < 0.35:
        middle.insert(1, rng.choice(SECOND_USES))
    if product.words["extra"]:
        middle.append(EXTRAS[product.words["extra"]])
    sentences = [rng.choice(OPENINGS), *middle]
    if rng.random() < 0.4:
        sentences.append(rng.choice(CLOSINGS))
    text = " ".join(sentences).format(**product.words)
    return text if 25 <= len(text.split()) <= 60 else make_description(product, rng)


def with_entities(text: str, rng: random.Random) -> str:
    """The same text as old web pages wrote it; cp1252 numbers included."""
    apostrophe = rng.choice(("&#8217;", "&#146;", "&#39;", "&rsquo;"))
    dash = rng.choice(("&#151;", "&#8212;", "&mdash;"))
    marked = text.replace("'", apostrophe).replace(" - ", dash)
    return marked.replace(" and ", " &amp; ", 1) if marked == text else marked


def with_boilerplate(text: str, rng: random.Random) -> str:
    edition = rng.choice(("thePaperbackedition", "theHardcoveredition", "theAudio CDedition"))
    return f"{text}--This text refers to {edition}."


def with_glued_words(text: str, rng: random.Random) -> str:
    """Loses the space after a sentence, as when a tag was cut out without leaving one."""
    ends = [match.start() + 1 for match in re.finditer(r"\. ", text)]
    place = rng.choice(ends)
    return text[:place] + text[place + 1 :]


def with_strange_characters(text: str, rng: random.Random) -> str:
    """One control or zero-width character before a space."""
    place = rng.choice([match.start() for match in re.finditer(" ", text)])
    stray = rng.choice(("\u200b", "\ufeff", "\u00ad", "\x07", "\x1f", "\x81"))
    return text[:place] + stray + text[place:]


def with_tags(text: str, rng: random.Random) -> str:
    """Line breaks as tags, or a whole page of markup around the same words."""
    if rng.random() < 0.5:
        return text.replace(". ", ".<br><br>", 1).replace(". ", ".<br />", 1)
    head, rest = text.split(". ", 1)
    left = f'<div class="leftImage" style="width: {rng.randrange(200, 500)}px;">'
    return f'<div class="aplus">\n<h4>{head}.</h4>\n{left}<p>{rest}</p></div>\n</div>'


def with_false_entity(text: str, rng: random.Random) -> str:
    """Ends with what a careless parser takes for an entity."""
    extra = rng.choice(("Loved by B&B; hosts.", "See the Q&A; below.", "Suits R&B; evenings."))
    return f"{text} {extra}"


# share of the contents that each fault touches; at most one fault a content
FAULTS = {
    with_entities: 0.16,
    with_boilerplate: 0.08,
    with_glued_words: 0.04,
    with_strange_characters: 0.02,
    with_tags: 0.015,
    with_false_entity: 0.008,
}


def with_faults(text: str, rng: random.Random) -> str:
    chosen = rng.random()
    for fault, share in FAULTS.items():
        chosen -= share
        if chosen < 0:
            return fault(text, rng)
    return text


def with_title_fault(title: str, rng: random.Random) -> str:
    """A few titles carry markup too; a title keeps it in every line that repeats the title."""
    title = title.replace("&", "&amp;")
    chosen = rng.random()
    if chosen < 0.01:
        return title.replace(" ", "&nbsp;", 1)
    return title.replace(" ", "  ", 1) if chosen < 0.02 else title


def make_products(rng: random.Random) -> list[Product]:
    """Distinct combinations of item, colour and brand, every item about equally often."""
    combinations = set()
    while len(combinations) < NUM_LINES:
        item = CATALOGUE_ITEMS[len(combinations) % len(CATALOGUE_ITEMS)]
        combinations.add((item, rng.choice(COLOURS), rng.choice(BRANDS)))
    products = [make_product(*combination, rng) for combination in sorted(combinations)]
    rng.shuffle(products)
    return [product._replace(title=with_title_fault(product.title, rng)) for product in products]


def make_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """Title and content of each line: the sound ones, and those that cleaning refuses or merges."""
    products = make_products(rng)
    sound, spare = products[:NUM_TITLES], products[NUM_TITLES:]
    pairs = [(p.title, with_faults(make_description(p, rng), rng)) for p in sound]
    repeated = rng.sample(pairs, 150)
    rewritten = [(p.title, make_description(p, rng)) for p in rng.sample(sound, 130)]
    nameless = [("", make_description(p, rng)) for p in rng.sample(sound, 160)]
    echoes = [(p.title, p.title) for p in spare[:60]]
    num_empty = NUM_LINES - len(pairs) - sum(map(len, (repeated, rewritten, nameless, echoes)))
    empty = [(p.title, "") for p in spare[60:][: num_empty - 20]] + [("", "")] * 20
    pairs += repeated + rewritten + nameless + echoes + empty
    rng.shuffle(pairs)
    return pairs


def make_lines(seed: int = SEED) -> list[str]:
    """The whole file, a JSON object per line; plain ASCII, as the real one is."""
    rng = random.Random(seed)
    lines = []
    for index, (title, content) in enumerate(make_pairs(rng)):
        related = sorted(rng.sample(range(NUM_LINES), rng.randrange(4)))
        record = {"uid": f"S{index:06d}", "title": title, "content": content}
        record |= {"target_ind": related, "target_rel": [1.0] * len(related)}
        lines.append(json.dumps(record))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the sample of invented products.")
    parser.add_argument("--out", type=Path, default=SAMPLE)
    out = parser.parse_args().out
    lines = make_lines()
    out.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    out.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
    print(f"{out}: {len(lines)} lines, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
