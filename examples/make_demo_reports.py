"""Writes the reports that `p2pnode demo` shows: two weeks in a town that does not exist, told by nobody.

    python examples/make_demo_reports.py p2pnode/demo_reports.jsonl

Every name, place and event is invented and drawn from the tables below; the cells lie in a stretch of desert where
nobody lives. The same seed writes the same bytes, in the form that `p2pnode report import` reads.
"""

import argparse
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from protocol import geohash

SEED = 20
REPORTS = 400
DAYS = 14
END = datetime(2026, 6, 14, 22, 0, tzinfo=timezone(timedelta(hours=-6)))
CENTRE = 27.05, -103.95

# Name, with its preposition where a sentence needs it; kilometres north and east of the centre; a public place?
PLACES = [
    ("la plaza de los Faroles", 0.0, 0.1, True),
    ("el mercado Santa Espiga", 0.3, -0.4, True),
    ("el puente de las Garzas", 1.6, 0.5, True),
    ("la glorieta del Reloj Parado", 0.8, 1.1, True),
    ("la terminal de autobuses", -0.9, 1.4, True),
    ("la clínica Valdehierba", 0.5, 0.9, True),
    ("la secundaria Número Tres", -0.6, -1.0, True),
    ("el campo de beisbol", 2.1, -1.6, True),
    ("la gasolinera de la salida norte", 4.2, 0.3, True),
    ("la carretera vieja a Piedra Honda", 7.5, 2.0, False),
    ("el entronque de Las Tres Palmas", -6.8, 3.1, False),
    ("la brecha del Tecolote", -4.4, -7.2, False),
    ("la colonia Los Sauces", 1.9, 2.2, False),
    ("la colonia Nueva Aurora", -2.3, 1.8, False),
    ("el barrio de los Alfareros", 0.9, -1.9, False),
    ("el barrio La Noria", -1.4, -0.5, False),
    ("el fraccionamiento Villas del Trigo", -3.2, 3.6, False),
    ("el ejido Agua Mansa", 9.8, -6.1, False),
    ("el ejido El Colibrí", -9.1, -2.4, False),
    ("la ranchería Los Nopalitos", 5.3, 8.7, False),
    ("la presa Chica", 8.2, -9.5, False),
    ("el vado del río Sordo", -7.7, 6.4, False),
]

# Category, weight, severities, titles ({p} is the place), what was noticed.
EVENTS: list[tuple[str, int, list[int], list[str], list[str]]] = [
    (
        "shooting",
        34,
        [2, 3],
        [
            "Balazos cerca de {p}",
            "Se oyen detonaciones por {p}",
            "Disparos rumbo a {p}",
        ],
        [
            "Primero tres o cuatro, luego una pausa y otra vez.",
            "Fueron unos dos minutos y paró de golpe.",
            "Se escuchan lejos, como del lado de las bodegas.",
            "La gente se metió a los locales y bajaron las cortinas.",
            "No sabemos si hay personas lastimadas.",
        ],
    ),
    (
        "roadblock",
        52,
        [1, 2],
        [
            "Bloqueo en {p}",
            "Camión atravesado en {p}",
            "Cerrado el paso por {p}",
        ],
        [
            "Hay un tráiler atravesado y no dejan pasar en ningún sentido.",
            "Pusieron piedras y llantas; los carros se están regresando.",
            "El camión de pasajeros dio vuelta y bajó a la gente antes.",
            "Se puede rodear por la brecha, pero está muy suelta la tierra.",
            "Llevan como media hora y no se ve ninguna autoridad.",
        ],
    ),
    (
        "convoy",
        34,
        [1, 2],
        [
            "Convoy de camionetas por {p}",
            "Pasan camionetas sin placas por {p}",
            "Fila de vehículos rumbo a {p}",
        ],
        [
            "Conté seis, con las luces apagadas.",
            "Van despacio y se paran en las esquinas.",
            "Eran cuatro blancas y una roja con redilas.",
            "Pasaron de norte a sur y no han vuelto.",
            "Mejor no salgan a mirar.",
        ],
    ),
    (
        "checkpoint",
        28,
        [1],
        [
            "Retén en {p}",
            "Están revisando carros en {p}",
            "Puesto de revisión por {p}",
        ],
        [
            "Piden bajar los vidrios y preguntan a dónde va uno.",
            "Revisan los teléfonos; lleven lo menos posible.",
            "Parece oficial, tienen conos y una patrulla.",
            "No se les ve ningún uniforme.",
            "La fila llega hasta la curva.",
        ],
    ),
    (
        "operation",
        22,
        [1, 2],
        [
            "Operativo en {p}",
            "Mucho movimiento de patrullas por {p}",
            "Helicóptero sobre {p}",
        ],
        [
            "Cerraron dos cuadras y piden no salir.",
            "El helicóptero da vueltas desde hace rato.",
            "Van casa por casa preguntando.",
            "Una vecina dice que es por lo de ayer.",
        ],
    ),
    (
        "explosion",
        10,
        [2, 3],
        [
            "Tronido fuerte por {p}",
            "Se oyó una explosión cerca de {p}",
        ],
        [
            "Temblaron los vidrios; puede haber sido un transformador.",
            "Se ve humo gris, todavía no llega nadie.",
            "Se cayó una barda y nada más, por ahora.",
            "Los perros no dejan de ladrar.",
        ],
    ),
    (
        "arson",
        12,
        [2],
        [
            "Vehículo en llamas en {p}",
            "Queman un camión en {p}",
        ],
        [
            "El chofer alcanzó a bajar y está bien.",
            "El humo se ve desde el centro; eviten la zona.",
            "Ya vienen los bomberos voluntarios.",
        ],
    ),
    (
        "disappearance",
        7,
        [3],
        [
            "Buscamos a un joven visto por última vez en {p}",
        ],
        [
            "Tiene 19 años, playera verde y mochila negra; iba a su trabajo.",
            "Su familia pide que cualquier dato se dé solo a la red de vecinas.",
            "Su teléfono ya no suena desde el mediodía.",
        ],
    ),
    (
        "disappearance",
        7,
        [3],
        [
            "No ha llegado a casa: salió de {p}",
        ],
        [
            "Tiene 34 años y maneja una motoneta azul.",
            "Dijo que volvía en una hora y ya pasaron cinco.",
            "Pedimos que no se publique su nombre; pregunten a la red.",
        ],
    ),
    (
        "extortion",
        14,
        [2],
        [
            "Llamadas de cobro a negocios de {p}",
            "Piden cuota en {p}",
        ],
        [
            "Dicen llamar de parte de alguien; no den nombres ni horarios.",
            "Ya van tres locales que cierran temprano por lo mismo.",
            "El número es siempre distinto.",
        ],
    ),
    (
        "press-attack",
        5,
        [2, 3],
        [
            "Le quitaron la cámara a un reportero en {p}",
            "Amenazan a quien estaba grabando en {p}",
        ],
        [
            "Está a salvo con compañeros.",
            "Le pidieron borrar el video y lo siguieron dos cuadras.",
        ],
    ),
    (
        "body",
        2,
        [3],
        [
            "Hallazgo en {p}, ya hay autoridades",
        ],
        [
            "Por respeto a la familia no compartan imágenes.",
            "La zona está acordonada; busquen otro camino.",
        ],
    ),
    (
        "outage",
        18,
        [0, 1],
        [
            "Sin luz en {p}",
            "Apagón en {p}",
        ],
        [
            "Se fue en todo el cuadrante y no dan hora.",
            "Sube y baja desde anoche; desconecten el refrigerador.",
            "En la tienda de la esquina prestan para cargar el teléfono.",
            "Tronó un fusible y quedó a oscuras toda la cuadra.",
        ],
    ),
    (
        "outage",
        12,
        [0, 1],
        [
            "Sin señal de teléfono en {p}",
            "No entran llamadas en {p}",
        ],
        [
            "Solo entra mensaje de texto, a ratos.",
            "Con el internet de la casa sí se puede.",
            "Falla desde el mediodía, en todas las compañías.",
        ],
    ),
    (
        "outage",
        10,
        [0, 1],
        [
            "Sin agua desde la mañana en {p}",
            "No cae agua en {p}",
        ],
        [
            "Dicen que es la bomba y que tarda dos días.",
            "Quien tenga pila, que comparta con las personas mayores.",
            "La pipa pasa a las cinco.",
        ],
    ),
    (
        "displacement",
        7,
        [1, 2],
        [
            "Familias dejan {p}",
        ],
        [
            "Salieron de madrugada con lo puesto.",
            "Son unas doce personas, piden no publicar dónde duermen.",
            "Dejaron animales; alguien puede darles agua.",
        ],
    ),
    (
        "displacement",
        7,
        [1, 2],
        [
            "Llegan familias desde {p} a la parroquia",
        ],
        [
            "Traen niños y poca ropa; hacen falta cobijas.",
            "Se busca quien tenga un cuarto por unos días.",
            "Ya comieron y están descansando.",
        ],
    ),
    (
        "aid",
        14,
        [0],
        [
            "Hay comida caliente en {p}",
            "Reparten comida en {p}",
        ],
        [
            "De 9 a 14 h, traigan su recipiente.",
            "Hay para unas ochenta personas.",
            "Se aceptan manos para servir y lavar.",
        ],
    ),
    (
        "aid",
        14,
        [0],
        [
            "Centro de acopio en {p}",
            "Reciben víveres en {p}",
        ],
        [
            "Hace falta leche en polvo, pañales y pilas.",
            "Ya no se necesita ropa, gracias; sí cobijas.",
            "Se aceptan manos para cargar cajas.",
        ],
    ),
    (
        "aid",
        10,
        [0],
        [
            "Médica voluntaria en {p}",
            "Curaciones sin costo en {p}",
        ],
        [
            "Atiende sin costo y sin preguntar.",
            "Trae medicina para la presión; para el azúcar ya no hay.",
            "Está hasta las seis de la tarde.",
        ],
    ),
    (
        "found",
        5,
        [0],
        [
            "Ya apareció el joven que salió de {p}",
        ],
        [
            "Está con su familia, gracias a todas por compartir.",
            "Se había quedado sin batería y sin pasaje.",
        ],
    ),
    (
        "found",
        4,
        [0],
        [
            "Encontrada y bien: señora que buscaban por {p}",
        ],
        [
            "Estaba en casa de una comadre.",
            "Gracias a quien la acompañó hasta su puerta.",
        ],
    ),
    (
        "rumour",
        16,
        [0],
        [
            "Rumor: que van a cerrar {p}",
            "¿Alguien sabe qué pasa en {p}?",
        ],
        [
            "No lo hemos podido confirmar; no lo reenvíen todavía.",
            "Lo cuentan en tres grupos, con tres horas distintas.",
            "Nadie de los que lo dicen estaba ahí.",
        ],
    ),
    (
        "rumour",
        10,
        [0],
        [
            "Circula un audio sobre {p}",
        ],
        [
            "El audio es viejo, ya circulaba el año pasado.",
            "Se oye un claxon que no es de aquí.",
            "No lo reenvíen todavía.",
        ],
    ),
    (
        "all-clear",
        40,
        [0],
        [
            "Todo tranquilo en {p}",
            "Ya se puede pasar por {p}",
            "Sin novedad en {p}",
        ],
        [
            "Acabo de cruzar a pie y hay gente comprando.",
            "Abrieron las tiendas y pasa el camión.",
            "Se llevaron lo que estorbaba y barrieron los vidrios.",
            "Los niños están jugando en la cancha.",
        ],
    ),
    (
        "other",
        4,
        [0],
        [
            "Perro perdido por {p}",
        ],
        [
            "Es café, orejas caídas y responde a Canelo.",
            "Trae un paliacate rojo.",
        ],
    ),
    (
        "other",
        5,
        [0],
        [
            "Junta de vecinas en {p}",
        ],
        [
            "A las siete, para ponernos de acuerdo con los avisos.",
            "Traigan silla.",
        ],
    ),
]

SOURCES = {
    "saw": ["Lo estoy viendo.", "Pasé hace un momento.", "Me consta.", ""],
    "heard": ["Se oye desde mi casa.", "Lo escuchamos varias familias.", ""],
    "told": [
        "Me lo dice mi hermana, que vive ahí.",
        "Avisa un chofer de confianza.",
        "Lo cuenta el señor del agua.",
        "",
    ],
    "public-channel": ["Lo pusieron en el grupo de la colonia.", "Aviso de la radio comunitaria.", ""],
    "inference": ["Lo supongo por el tráfico detenido.", ""],
    "official": ["Según el aviso del municipio.", ""],
}
ENDED = ["Ya terminó, de todos modos con cuidado.", "Ya no hay nada, según se ve.", "Parece que ya pasó."]
TOLD_BY_SEVERAL = ("shooting", "roadblock", "convoy", "arson", "outage", "operation")
CALM = ("all-clear", "found", "aid", "other")
CLOSINGS = ["Cuídense.", "Avisen si saben más.", "Tomen otra ruta.", "Actualizo si cambia.", "", "", "", ""]
HOURS = [6, 7, 7, 8, 9, 11, 12, 13, 14, 16, 17, 18, 18, 19, 19, 20, 20, 21, 22, 23, 1, 4]


def town() -> Iterator[dict[str, object]]:
    """The reports, oldest first."""
    draw = random.Random(SEED)  # noqa: S311  # a story, not a secret: the same every time
    happenings = sorted(_happenings(draw), key=lambda happening: happening[0])
    for number, (when, event, place, state) in enumerate(happenings, 1):
        yield _report(draw, f"demo-{number:04}", when, event, place, state)


def _happenings(draw: random.Random) -> list[tuple[datetime, int, int, str]]:
    """(time, event, place, state): some stand alone, some are told by several, and most of those end calmly."""
    found: list[tuple[datetime, int, int, str]] = []
    weights = [event[1] for event in EVENTS]
    calm = next(number for number, event in enumerate(EVENTS) if event[0] == "all-clear")
    while len(found) < REPORTS:
        day = END - timedelta(days=draw.randrange(1, DAYS + 1))
        when = day.replace(hour=draw.choice(HOURS)) + timedelta(minutes=draw.randrange(60))
        event, place = draw.choices(range(len(EVENTS)), weights)[0], draw.randrange(len(PLACES))
        found.append((when, event, place, "ongoing"))
        if EVENTS[event][0] in TOLD_BY_SEVERAL and draw.random() < 0.35:
            for _ in range(draw.randrange(1, 4)):
                when += timedelta(minutes=draw.randrange(3, 25))
                found.append((when, event, place, "ongoing"))
            if draw.random() < 0.6:
                when += timedelta(minutes=draw.randrange(40, 180))
                found.append((when, event, place, "ended"))
                found.append((when + timedelta(minutes=draw.randrange(5, 40)), calm, place, "ongoing"))
    return found[:REPORTS]


def _report(draw: random.Random, name: str, when: datetime, event: int, place: int, state: str) -> dict[str, object]:
    category, _, severities, titles, details = EVENTS[event]
    where, north_km, east_km, public = PLACES[place]
    basis = draw.choice(["saw", "saw", "heard", "told", "told", "public-channel", "inference", "official"])
    if (basis == "heard" and category not in ("shooting", "explosion")) or (basis == "inference" and category in CALM):
        basis = "saw"
    noticed = draw.sample(details, min(len(details), draw.randrange(1, 4)))
    if state == "ended":
        noticed = [draw.choice(ENDED)]
    text = " ".join(part for part in (*noticed, draw.choice(SOURCES[basis]), draw.choice(CLOSINGS)) if part)
    report: dict[str, object] = {
        "id": name,
        "category": category,
        "title": draw.choice(titles).format(p=where).replace(" a el ", " al ").replace(" de el ", " del "),
        "text": text,
        "place": geohash.encode(CENTRE[0] + north_km / 111.2, CENTRE[1] + east_km / 99.0, 6 if public else 5),
        "place_name": where.partition(" ")[2],
        "observed": _window(draw, when),
        "basis": basis,
        "severity": draw.choice([*severities, *severities, None]),
        "state": draw.choice([state] * 6 + ["unknown"]),
        "lang": "es",
        "tags": ["noche"] * (when.hour >= 20) + ["ruta"] * (category in ("roadblock", "checkpoint")),
    }
    return {key: value for key, value in report.items() if value not in (None, [])}


def _window(draw: random.Random, when: datetime) -> object:
    if draw.random() < 0.05:
        return "unknown"
    end = when + timedelta(minutes=draw.choice([0, 5, 10, 15, 15, 30, 60]))
    return {"from": when.isoformat(), "to": end.isoformat()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's reports, one JSON object a line.")
    parser.add_argument("file", type=Path)
    lines = [json.dumps(report, ensure_ascii=False) for report in town()]
    parser.parse_args().file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
