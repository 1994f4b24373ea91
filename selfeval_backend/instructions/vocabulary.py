"""What instructions are about: topics with their words, and other words to ask for.

Every list is put apart once, by hash: a quarter of each is held out, and stands in no prompt of
training. `vocabulary` hands out one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from selfeval_backend.hashing import digest_of

__all__ = ["Topic", "Vocabulary", "one_side", "vocabulary"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Something to write about."""

    name: str
    words: tuple[str, ...]
    """Such as a text about it is likely to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The words of one side."""

    topics: tuple[Topic, ...]
    aspects: tuple[str, ...]
    """What may follow a topic's name."""
    words: tuple[str, ...]
    """Plain ones, of no topic in particular."""
    names: tuple[str, ...]
    """Of people, by their first names."""
    openings: tuple[str, ...]
    """Words that a text can begin with."""
    capitals: Mapping[str, str]
    """By country."""
    opposites: Mapping[str, str]
    categories: Mapping[str, tuple[str, ...]]
    """Members of each."""
    jobs: tuple[str, ...]
    cities: tuple[str, ...]
    colours: tuple[str, ...]
    pets: tuple[str, ...]
    dishes: tuple[str, ...]
    praise: tuple[str, ...]
    """Sentences of a content customer; {thing} is what was bought."""
    blame: tuple[str, ...]
    """Sentences of one who is not."""
    things: tuple[str, ...]
    """To be bought."""


def one_side(items: Sequence[T], *, held_out: bool) -> tuple[T, ...]:
    """Return the items of one side, in their order: a quarter is held out, at least one of two.

    Which ones is decided by the hashes of their texts alone, not by their order.
    """
    ranked = sorted(items, key=lambda item: digest_of(repr(item)))
    apart = set(map(repr, ranked[: -(-len(items) // 4)]))
    return tuple(item for item in items if (repr(item) in apart) == held_out)


@cache
def vocabulary(*, held_out: bool) -> Vocabulary:
    """Return the words of one side: those of training, or those that are held out."""

    def words(text: str) -> tuple[str, ...]:
        return one_side(text.split(), held_out=held_out)

    def lines(text: str) -> tuple[str, ...]:
        return one_side(text.strip().splitlines(), held_out=held_out)

    def pairs(text: str) -> Mapping[str, str]:
        return MappingProxyType(dict(_pair(line) for line in lines(text)))

    return Vocabulary(
        topics=tuple(map(_topic, lines(_TOPICS))),
        aspects=lines(_ASPECTS),
        words=words(_WORDS),
        names=words(_NAMES),
        openings=words(_OPENINGS),
        capitals=pairs(_CAPITALS),
        opposites=pairs(_OPPOSITES),
        categories=MappingProxyType(
            {name: words(members) for name, members in map(_pair, _CATEGORIES.strip().splitlines())}
        ),
        jobs=lines(_JOBS),
        cities=lines(_CITIES),
        colours=words(_COLOURS),
        pets=words(_PETS),
        dishes=lines(_DISHES),
        praise=lines(_PRAISE),
        blame=lines(_BLAME),
        things=lines(_THINGS),
    )


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(": ")
    return left, right


def _topic(line: str) -> Topic:
    name, words = _pair(line)
    return Topic(name=name, words=tuple(words.split()))


_TOPICS = """
the sea: water waves blue
a lighthouse: light sea ships
an old bridge: river stone water
the moon: night sky light
a rainy day: rain umbrella water
a thunderstorm: rain lightning sky
the first snow: snow winter white
autumn leaves: trees colors fall
spring flowers: bloom garden colors
summer holidays: beach sun family
a mountain hike: trail mountain nature
a forest path: trees forest nature
the desert: sand heat sun
a waterfall: water rocks nature
volcanoes: lava eruption earth
earthquakes: ground damage earth
rainbows: colors sky rain
sunsets: sky colors sun
the stars: night sky stars
comets: sky space tail
black holes: gravity space light
the planet Mars: planet red space
a trip to space: space rocket stars
rivers: water river flow
glaciers: ice water cold
islands: sea beach water
caves: dark rocks cave
the wind: wind air trees
fog: fog air road
clouds: sky clouds rain
a vegetable garden: plants soil garden
house plants: plants water light
roses: flowers beautiful garden
mushrooms: forest food mushrooms
oak trees: tree leaves oak
bees: honey flowers hive
butterflies: wings flowers colors
ants: colony food work
spiders: web legs insects
owls: night eyes wings
eagles: sky wings hunt
penguins: ice cold water
dolphins: water sea intelligent
whales: ocean water large
sharks: ocean teeth fish
cats: pets cat playful
dogs: dog loyal pets
horses: horse ride strong
elephants: trunk large herd
tigers: stripes hunt wild
wolves: pack wolf wild
a pet rabbit: rabbit ears soft
goldfish: fish tank water
frogs: pond water frog
snakes: snake skin venom
dinosaurs: extinct fossils large
bread: flour bread oven
pizza: cheese pizza dough
soup: soup vegetables bowl
pancakes: batter pancakes syrup
apple pie: apples pie sugar
chocolate: sweet cocoa chocolate
ice cream: cold sweet flavor
coffee: coffee beans cup
tea: tea leaves cup
cheese: milk cheese flavor
honey: bees sweet honey
rice: rice water grain
a family dinner: family food table
a birthday cake: cake candles birthday
a picnic: food park basket
breakfast: eggs morning food
a good sandwich: bread sandwich cheese
spices: flavor food spice
a school day: school students teacher
learning to read: books reading words
mathematics: numbers math problems
homework: homework students time
a favorite teacher: teacher students learning
exams: study exam students
libraries: books library reading
museums: art museum history
painting: art paint colors
photography: camera photo light
music: music sound song
playing the guitar: guitar music strings
playing the piano: piano music keys
singing: voice song music
dancing: dance music movement
poetry: words poem poet
the theater: stage actors play
movies: film movie story
cartoons: characters cartoon animation
board games: players game board
chess: chess pieces game
puzzles: pieces puzzle solve
video games: game players levels
football: ball team game
basketball: ball team court
tennis: tennis ball racket
swimming: water swim pool
running: running run exercise
cycling: bike ride cycling
skiing: snow ski mountain
yoga: breath body yoga
camping: tent fire nature
fishing: fish water rod
gardening: plants soil garden
knitting: yarn needles knitting
cooking: food kitchen cooking
baking: oven flour baking
collecting stamps: stamps collection history
a road trip: road car trip
a train journey: train journey window
airplanes: plane flight sky
bicycles: bike wheels ride
electric cars: car battery electric
ships: sea ship sail
a hot air balloon: balloon sky air
city traffic: cars traffic road
a small village: village people quiet
life in a big city: city people streets
a busy market: market people food
a quiet beach: beach sand waves
a farm: farm animals crops
a castle: castle walls king
a hotel room: room bed hotel
a coffee shop: coffee shop people
an airport: planes airport travelers
a hospital: doctors patients hospital
a bakery: bread bakery smell
a fire station: fire firefighters station
a playground: children play swing
a zoo: animals zoo visitors
a haunted house: house dark ghost
robots: robots machines technology
computers: computer technology data
smartphones: phone people technology
the internet: internet information people
artificial intelligence: machines data intelligence
solar power: energy sun solar
wind turbines: energy wind power
recycling: waste recycling plastic
climate change: climate temperature earth
clean water: water clean health
plastic waste: plastic waste ocean
healthy eating: food healthy vegetables
sleep: sleep rest night
exercise: exercise body health
washing hands: hands soap water
brushing teeth: teeth brush toothpaste
vitamins: vitamins body health
stress: stress mind work
friendship: friends friend trust
kindness: kind people help
courage: courage fear brave
patience: patience time wait
honesty: honest truth trust
happiness: happy happiness joy
gratitude: thankful gratitude life
teamwork: team work together
leadership: leader leadership team
money: money spend save
saving money: money save budget
a job interview: interview job questions
working from home: work home time
a lost key: key find door
a broken window: glass window broken
an old clock: time clock hands
a red umbrella: umbrella rain red
a letter from a friend: letter friend write
a secret door: door secret key
a treasure map: treasure map island
a time machine: time machine future
a dragon: dragon fire wings
a wizard: magic wizard spell
a brave knight: knight sword brave
pirates: ship pirates treasure
a detective: detective mystery clue
ancient Egypt: pyramids pharaohs egypt
the Roman Empire: rome empire roman
the Middle Ages: castles knights medieval
the invention of the wheel: wheel invention transport
the telephone: telephone communication phone
the printing press: books printing press
"""

_ASPECTS = """
in winter
in a small town
on a Monday morning
in the old days
in the year 2100
for a child of six
seen by a tourist
for people who know nothing about it
as my grandmother would tell it
from a scientist's point of view
on a quiet evening
in everyday life
for a school newspaper
for someone in a hurry
after a long week
and what we can learn from it
and why people care about it
and how it makes people feel
"""

_WORDS = """
lantern silver garden window river mirror candle pocket whisper thunder copper velvet basket market
ladder bottle hammer needle button pillow blanket feather marble ribbon anchor compass engine wheel
bridge tunnel castle island harbor valley meadow desert orchard village station library kitchen
bakery museum theater letter story secret promise journey picture puzzle riddle music melody rhythm
dance summer winter morning evening shadow sunlight moonlight storm breeze frost ember smoke honey
sugar pepper lemon orange apple cherry butter coffee teapot kettle spoon dinner friend neighbor
stranger teacher captain farmer painter doctor sailor child grandfather gentle brave quiet golden
ancient hidden broken bright simple strange clever honest patient curious famous wonderful careful
remember discover wander gather imagine listen follow borrow repair explore celebrate protect
measure travel together always never sometimes suddenly slowly finally tomorrow yesterday forever
purple crimson yellow circle square corner centre balance history science nature future memory
wisdom freedom justice courage fortune
"""

_NAMES = """
Anna Ben Clara David Emma Felix Grace Henry Irene Jack Karen Leo Maria Noah Olivia Paul Rosa Sam
Tina Victor Wendy Alice Bruno Carmen Daniel Elena Frank Hannah Ivan Julia Kevin Laura Martin Nina
Oscar Peter Rachel Simon Thomas Vera
"""

_OPENINGS = """
Well Imagine Once Today Yesterday Sometimes Perhaps First Honestly Finally Suddenly Usually Everyone
Nobody Listen Look Remember Recently Surely Indeed Welcome Hello Yes Frankly
"""

_CAPITALS = """
France: Paris
Germany: Berlin
Italy: Rome
Spain: Madrid
Portugal: Lisbon
Austria: Vienna
Greece: Athens
Poland: Warsaw
Hungary: Budapest
Sweden: Stockholm
Norway: Oslo
Finland: Helsinki
Denmark: Copenhagen
Ireland: Dublin
Belgium: Brussels
Switzerland: Bern
Russia: Moscow
Ukraine: Kyiv
Romania: Bucharest
Bulgaria: Sofia
Serbia: Belgrade
Croatia: Zagreb
Turkey: Ankara
Egypt: Cairo
Morocco: Rabat
Kenya: Nairobi
Ethiopia: Addis Ababa
Ghana: Accra
Nigeria: Abuja
Senegal: Dakar
Tunisia: Tunis
China: Beijing
Japan: Tokyo
South Korea: Seoul
India: New Delhi
Thailand: Bangkok
Vietnam: Hanoi
Indonesia: Jakarta
Philippines: Manila
Nepal: Kathmandu
Pakistan: Islamabad
Iran: Tehran
Iraq: Baghdad
Canada: Ottawa
Mexico: Mexico City
Cuba: Havana
Brazil: Brasilia
Argentina: Buenos Aires
Chile: Santiago
Peru: Lima
Colombia: Bogota
Venezuela: Caracas
Ecuador: Quito
Uruguay: Montevideo
Australia: Canberra
New Zealand: Wellington
Iceland: Reykjavik
Lebanon: Beirut
Jordan: Amman
Saudi Arabia: Riyadh
"""

_OPPOSITES = """
hot: cold
big: small
tall: short
fast: slow
happy: sad
light: dark
old: young
rich: poor
strong: weak
hard: soft
loud: quiet
early: late
full: empty
wet: dry
open: closed
clean: dirty
thick: thin
wide: narrow
heavy: light
deep: shallow
near: far
up: down
left: right
inside: outside
first: last
always: never
day: night
love: hate
buy: sell
win: lose
begin: end
push: pull
give: take
accept: refuse
arrive: leave
remember: forget
laugh: cry
awake: asleep
brave: afraid
cheap: expensive
easy: difficult
smooth: rough
sharp: dull
sweet: sour
true: false
alive: dead
above: below
before: after
north: south
east: west
success: failure
victory: defeat
friend: enemy
"""

_CATEGORIES = """
animal: dog cat horse cow sheep goat lion tiger bear wolf rabbit mouse elephant monkey donkey camel
fruit: apple banana cherry grape lemon mango orange peach pear plum strawberry pineapple melon kiwi
vegetable: carrot potato onion cabbage spinach broccoli lettuce cucumber celery turnip radish leek
color: red blue green yellow purple orange brown pink white black grey violet
tool: hammer saw drill wrench screwdriver pliers shovel rake axe chisel
vehicle: car bus train truck bicycle tram ship helicopter motorcycle scooter
musical instrument: piano guitar violin flute trumpet drum cello harp clarinet saxophone
piece of clothing: shirt coat hat sock glove scarf dress skirt jacket sweater
piece of furniture: table chair sofa desk bed shelf wardrobe stool bench cupboard
country: France Japan Brazil Egypt Canada India Kenya Norway Peru Spain
profession: doctor teacher lawyer baker nurse pilot plumber farmer engineer butcher
part of the body: arm leg nose ear knee elbow shoulder finger toe neck
"""

_JOBS = """
nurse
baker
pilot
lawyer
carpenter
dentist
gardener
librarian
plumber
photographer
translator
violinist
architect
electrician
farmer
mechanic
"""

_CITIES = """
Lisbon
Oslo
Cairo
Lima
Dublin
Toronto
Naples
Krakow
Osaka
Boston
Geneva
Seville
Hamburg
Quito
Perth
Bergen
"""

_COLOURS = "red blue green yellow purple orange brown pink white black grey silver"

_PETS = "dog cat parrot hamster rabbit turtle goldfish pony canary lizard"

_DISHES = """
lentil soup
mushroom risotto
fish pie
apple cake
roast chicken
potato salad
onion tart
tomato pasta
rice pudding
cheese pancakes
"""

_PRAISE = """
I love this {thing}.
The {thing} works better than I had hoped.
It arrived early and in perfect condition.
I would buy it again without thinking twice.
My whole family is delighted with it.
Best money I have spent in a long time.
The quality is outstanding.
I use it every day and it still looks new.
Everybody who visits asks me where I got it.
Five stars from me.
It does exactly what it promises.
The service was friendly and quick.
"""

_BLAME = """
I regret buying this {thing}.
The {thing} broke after two days.
It arrived late and damaged.
I want my money back.
Nobody answered when I complained.
It feels cheap and smells of glue.
The quality is dreadful.
Do not waste your money on it.
I have had nothing but trouble with it.
One star is still too much.
It does not do what it promises.
I gave it away after a week.
"""

_THINGS = """
lamp
kettle
backpack
blender
tent
keyboard
chair
toaster
watch
raincoat
suitcase
pillow
bicycle pump
coffee machine
vacuum cleaner
garden hose
"""
