"""What requests and answers look like: the documents of /openapi.json. A picture is an id or base64, never a path."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

UPLOAD_BYTES = 16 * 2**20
UPLOAD_PIXELS = 16_000_000

ImageId = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2000)]
RunId = Annotated[str, Field(max_length=20, description="A run (`GET /api/runs`). Default: as the command chooses.")]
To = Annotated[
    str,
    Field(max_length=2000, description="Attributes to set and clear: `+Blond_Hair -Male`.", examples=["+Blond_Hair"]),
]

Domain = Annotated[
    str,
    Field(
        max_length=2000,
        description="The domain that the picture is of (`Blond_Hair` or `+Blond_Hair`), for a run with an encoder a "
        "domain (mix_match). Default: as the collection knows it.",
        examples=["+Blond_Hair"],
    ),
]


class Asked(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class PictureOf(Asked):
    """A picture: `image_id` of the collection, or `image`, a file in base64. One of the two."""

    image_id: ImageId | None = Field(None, description="An image of the collection.")
    image: str | None = Field(
        None,
        max_length=UPLOAD_BYTES * 4 // 3 + 4,
        description="A picture file (JPEG, PNG, WebP …) in base64: at most 16 MiB and 16 megapixels.",
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check_picture()
        return self

    def check_picture(self) -> None:
        """ValueError unless one picture is named."""
        if (self.image_id is None) == (self.image is None):
            raise ValueError("give image_id or image (base64), one of the two")


class QueryAsked(PictureOf):
    """A question: the content of a picture in another style. Without `to` and `style_of`: what is like the picture.

    `text` asks by words, alone or beside a picture, where the workspace has a text model.
    """

    to: To | None = None
    style_of: PictureOf | None = Field(None, description="A picture whose style is taken; `to` then edits it.")
    text: Text | None = Field(
        None, description="What is to be seen, in words.", examples=["a laughing woman with a hat"]
    )
    content_weight: Share | None = Field(None, description="Weight of content against style; default: the embedding.")
    k: int = Field(10, ge=1, le=1000)
    where: Text | None = Field(None, description="Only images that pass: `+A -B ?C split=test origin=real`.")
    labels: Literal["prefer", "require", "ignore"] = Field("prefer", description="How known labels count.")
    run: RunId | None = None

    @property
    def wordy(self) -> bool:
        """Whether it is words alone."""
        return self.text is not None and self.image_id is None and self.image is None

    @property
    def how(self) -> dict[str, Any]:
        """How many, which, and how known labels count."""
        return {"k": self.k, "where": self.where, "labels": self.labels}

    def check_picture(self) -> None:
        """ValueError unless one picture is named, or words alone."""
        if not self.wordy:
            return super().check_picture()
        for name in ("to", "style_of", "content_weight", "run"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is of a picture: give image_id or image (base64), or leave it out")
        return None


class TranslateAsked(PictureOf):
    """A picture in another style. A run of one direction takes neither `to` nor `style_of`."""

    to: To | None = None
    style_of: PictureOf | None = None
    samples: int = Field(1, ge=1, le=16, description="Different draws of the style.")
    guidance: Share | None = Field(None, description="Strength of the neighbours; default: 1 of a guided run, else 0.")
    neighbours: Literal["retrieved", "random"] | None = Field(None, description="Random ones are for a comparison.")
    source: Domain | None = None
    seed: int = Field(0, ge=0, lt=2**32)
    run: RunId | None = None


class InterpolateAsked(PictureOf):
    """The way between two styles: two edits, or two pictures whose styles are the ends."""

    to: tuple[To, To] | None = None
    style_of: tuple[PictureOf, PictureOf] | None = None
    steps: int = Field(6, ge=2, le=16)
    guidance: Share | None = None
    source: Domain | None = None
    seed: int = Field(0, ge=0, lt=2**32)
    run: RunId | None = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if (self.to is None) == (self.style_of is None):
            raise ValueError("give two edits in `to`, or two pictures in `style_of`")
        return self


class LoginAsked(Asked):
    """The token that the server was started with."""

    token: str = Field(max_length=1000)


class Problem(BaseModel):
    """What went wrong, in one line."""

    error: str


Attributes = dict[str, Literal[0, 1] | None]


class NeighbourTold(BaseModel):
    """An image that was found."""

    rank: int
    image_id: int
    url: str
    distance: float
    attributes: Attributes
    origin: str


class QueryTold(BaseModel):
    """The neighbours, best first; `target`: the labels sought; `plan`: what was done. Words alone ask no run."""

    neighbours: list[NeighbourTold]
    plan: str
    milliseconds: float
    target: Attributes
    labels: str
    text: str | None
    run: str | None
    method: str | None


class GuideTold(BaseModel):
    """A neighbour that guided a translation."""

    image_id: int
    url: str
    origin: str


class SourceTold(BaseModel):
    """The picture that was translated; null where it is not of the collection."""

    image_id: int | None
    url: str | None


class OutputTold(BaseModel):
    """A translation, its mask where the method has one, and what guided it."""

    source: SourceTold
    target: Attributes
    url: str
    mask: str | None
    neighbours: list[GuideTold]


class TranslateTold(BaseModel):
    """Translations, in the order of their samples or steps. Their pictures are there for ten minutes."""

    outputs: list[OutputTold]
    run: str
    method: str
    milliseconds: float


class RunTold(BaseModel):
    """A run: what it was trained on, whether pictures can be asked of it, and whether it is the default for that."""

    id: str
    stage: str
    method: str
    preset: str
    steps: int
    status: str
    seconds: float
    created: str
    attributes: list[str]
    groups: list[list[str]]
    neighbours: str | None
    source: str | None
    target: str | None
    domains: list[str] = Field(description="Of a run with an encoder a domain: the names that `source` may have.")
    usable: bool
    default: bool
    url: str


class RunsTold(BaseModel):
    """The runs, oldest first."""

    runs: list[RunTold]


class CurveTold(BaseModel):
    """A chart of a run's training, as SVG, with its key."""

    title: str
    unit: str
    svg: str
    key: str


class RunDetails(RunTold):
    """A run with its configuration, curves, and the pictures that it drew while it trained."""

    config: dict[str, object]
    curves: list[CurveTold]
    samples: list[dict[str, int | str]]


class LabelCounts(BaseModel):
    """Images by what is known of a label."""

    true: int
    false: int
    unknown: int


class CollectionTold(BaseModel):
    """What the workspace holds."""

    workspace: str
    images: int
    by_origin: dict[str, int]
    by_split: dict[str, int]
    attributes: list[str]
    labels: dict[str, LabelCounts]
    groups: list[list[str]]
    group_violations: int
    fields: list[str]
    runs: list[RunTold]
    presets: list[str]
    report: str | None


class ImageTold(BaseModel):
    """An image of the collection; `fields` are its text columns."""

    image_id: int
    url: str
    attributes: Attributes
    split: str
    origin: str
    parent: int | None
    fields: dict[str, str | None]


class ImagesTold(BaseModel):
    """Some of the images that pass a filter, of `total`."""

    images: list[ImageTold]
    total: int
    offset: int
    limit: int


class DuplicateTold(BaseModel):
    """An image of a group; `bits` to the nearest other one."""

    image_id: int
    url: str
    origin: str
    bits: int


class DuplicatesTold(BaseModel):
    """Groups of near-duplicates, as the command tells them."""

    images: int
    distance: int
    duplicates: int
    groups: list[list[DuplicateTold]]


class BlindAsked(Asked):
    """A comparison of two arms, blind."""

    pairs: int = Field(20, ge=1, le=200)
    arms: tuple[Text, Text] | None = None
    run: RunId | None = None
    seed: int = Field(0, ge=0, lt=2**32)


class BlindTold(BaseModel):
    """Where the page is that shows the pairs."""

    url: str
    pairs: int


class ChoicesAsked(Asked):
    """Files of choices, as the page saves them, one a person."""

    choices: list[dict[str, Any]] = Field(min_length=1, max_length=100)


class ChoicesTold(BaseModel):
    """As `rgunit evaluate translation --choices` tells it."""

    arms: tuple[str, str]
    share: float
    interval: tuple[float, float]
    verdict: str
    judged: int
    pairs: int
    judges: int
    equal: int


class Health(BaseModel):
    """Whether it answers, and whether the default runs are loaded."""

    status: str
    ready: bool
