/* A QPainter that draws nothing. Loaded before Procgen's simulator, these functions replace Qt's functions of the same
 * (mangled) names, so that the rollouts of a planner, whose frames are not used, skip drawing. Drawing changes no
 * state. */

#define NOTHING(symbol) \
    void symbol(void) {}

NOTHING(_ZN8QPainter10setOpacityEd)
NOTHING(_ZN8QPainter11drawEllipseERK5QRect)
NOTHING(_ZN8QPainter11drawEllipseERK6QRectF)
NOTHING(_ZN8QPainter13setRenderHintENS_10RenderHintEb)
NOTHING(_ZN8QPainter18setCompositionModeENS_15CompositionModeE)
NOTHING(_ZN8QPainter4saveEv)
NOTHING(_ZN8QPainter6rotateEd)
NOTHING(_ZN8QPainter6setPenEN2Qt8PenStyleE)
NOTHING(_ZN8QPainter6setPenERK4QPen)
NOTHING(_ZN8QPainter7restoreEv)
NOTHING(_ZN8QPainter8fillRectERK5QRectRK6QColor)
NOTHING(_ZN8QPainter8fillRectERK6QRectFRK6QColor)
NOTHING(_ZN8QPainter8setBrushERK6QBrush)
NOTHING(_ZN8QPainter9drawImageERK6QRectFRK6QImageS2_6QFlagsIN2Qt19ImageConversionFlagEE)
NOTHING(_ZN8QPainter9drawLinesEPK5QLinei)
NOTHING(_ZN8QPainter9translateERK7QPointF)
NOTHING(_ZN8QPainterC1EP12QPaintDevice)
NOTHING(_ZN8QPainterD1Ev)
