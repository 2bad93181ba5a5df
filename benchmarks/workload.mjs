// The same messages as workload.py, for Node, from the same tables; a test compares the two.

const EVENTS = ['Product Viewed', 'Product Added', 'Cart Viewed', 'Checkout Started', 'Order Completed', 'Coupon Applied']
const CATEGORIES = ['shoes', 'jackets', 'trousers', 'bags', 'watches', 'outdoor', 'home', 'sale']
const BRANDS = ['Northwind', 'Contoso', 'Fabrikam', 'Tailspin', 'Adventure Works', 'Litware']
const COLOURS = ['black', 'white', 'navy', 'olive', 'burgundy', 'sand', 'teal']
const PRODUCTS = 60
const TAGS = ['spring', 'bestseller', 'members', 'clearance', 'new', 'gift']
const WAREHOUSES = ['berlin-2', 'leeds-1', 'porto-4']
const AGENTS = ['Windows NT 10.0; Win64; x64', 'Macintosh; Intel Mac OS X 10_15_7', 'X11; Linux x86_64'].flatMap((system) =>
  ['Chrome/139', 'Chrome/140', 'Chrome/141', 'Edg/141'].map(
    (browser) => `Mozilla/5.0 (${system}) AppleWebKit/537.36 (KHTML, like Gecko) ${browser}.0.0.0 Safari/537.36`,
  ),
)

const sku = (number) => `SKU-${String(number % 100000).padStart(5, '0')}`
const hex = (number) => number.toString(16).padStart(10, '0')

export function makers({ numbers, users, prices, addresses }) {
  function small(i) {
    const number = numbers[i % 8191]
    return {
      userId: `user-${users[i % 4999]}`,
      event: EVENTS[number % 6],
      properties: { sku: sku(number), price: prices[i % 499], currency: 'EUR' },
      context: {},
    }
  }

  function medium(i) {
    const number = numbers[i % 8191]
    const user = users[i % 4999]
    const [category, colour] = [CATEGORIES[number % 8], COLOURS[number % 7]]
    const properties = {
      order_id: `ord_${hex(number)}`,
      product_id: sku(number),
      name: `${BRANDS[number % 6]} ${colour} ${category}`,
      category,
      price: prices[i % 499],
      quantity: 1 + (number % 4),
      currency: 'EUR',
      coupon: number % 3 ? null : 'WELCOME10',
      url: `https://shop.example.com/${category}/${String(number % 100000).padStart(5, '0')}?ref=${number % 977}`,
      logged_in: number % 2 === 0,
      checkout: { step: 1 + (number % 5), method: 'card', express: number % 5 === 0 },
      tags: [TAGS[number % 6], TAGS[number % 5]],
      session_id: hex(numbers[user % 8191]),
      warehouse: WAREHOUSES[number % 3],
    }
    const context = { ip: addresses[i % 2999].join('.'), userAgent: AGENTS[user % 12], locale: 'en-GB' }
    return { userId: `user-${user}`, event: EVENTS[number % 6], properties, context }
  }

  function large(i) {
    const call = medium(i)
    call.properties.products = Array.from({ length: PRODUCTS }, (_, position) => product(i + position))
    return call
  }

  function product(i) {
    const number = numbers[i % 8191]
    return {
      product_id: sku(number),
      name: `${BRANDS[number % 6]} ${COLOURS[number % 7]} ${CATEGORIES[number % 8]}`,
      price: prices[i % 499],
      quantity: 1 + (number % 4),
      variant: `${(number % 46) + 1}-${COLOURS[number % 5]}`,
      position: i % PRODUCTS,
    }
  }

  return { small, medium, large }
}
