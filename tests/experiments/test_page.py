"""report.html in a browser, from file://. Needs Chromium, chromedriver and selenium."""

import shutil
import time

import made_up
import pytest

from dss_jax.experiments import report

webdriver = pytest.importorskip('selenium.webdriver', reason='needs selenium and Chromium')
By = pytest.importorskip('selenium.webdriver.common.by').By
Select = pytest.importorskip('selenium.webdriver.support.ui').Select

if not (shutil.which('chromium') and shutil.which('chromedriver')):
  pytest.skip('needs chromium and chromedriver', allow_module_level=True)

EXAMPLES = 10_000


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweep')
  made_up.sweep(folder, made_up.toy(seeds=(0, 1)), EXAMPLES)
  assert report.main([str(folder)]) == 0
  return folder / 'report.html'


@pytest.fixture(scope='module')
def driver():
  options = webdriver.ChromeOptions()
  for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'):
    options.add_argument(flag)
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  made = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
  yield made
  made.quit()


@pytest.fixture
def page(driver, path):
  driver.get_log('browser'), driver.get_log('performance')
  driver.get(path.as_uri())
  return driver


def count(page):
  return page.find_element(By.ID, 'count').text


def choose(page, name, text):
  Select(page.find_element(By.ID, name)).select_by_visible_text(text)


def type_text(page, text):
  field = page.find_element(By.ID, 'text')
  field.clear()
  field.send_keys(text)


def test_it_asks_for_nothing_and_complains_of_nothing(page):
  assert page.get_log('browser') == []
  urls = [entry['message'] for entry in page.get_log('performance')
          if '"Network.requestWillBeSent"' in entry['message']]
  assert urls and all('"url":"file://' in one or '"url":"data:' in one for one in urls)


@pytest.mark.parametrize('width', [400, 1000, 1600])
def test_it_fits_the_window(page, width, path):
  page.set_window_size(width, 1000)
  wide = page.execute_script('return document.documentElement.scrollWidth')
  inner = page.execute_script('return window.innerWidth')
  assert wide <= inner
  figures = page.find_elements(By.CSS_SELECTOR, 'figure svg')
  assert len(figures) == 2
  for one in figures:
    assert one.rect['width'] > 250 and one.rect['height'] > 100
    assert one.find_elements(By.CSS_SELECTOR, 'path') and one.find_elements(By.CSS_SELECTOR, 'text')


@pytest.mark.parametrize('scheme, ink', [('light', 'rgb(28, 32, 36)'),
                                         ('dark', 'rgb(232, 234, 237)')])
def test_figures_have_the_pages_ink(page, scheme, ink):
  page.execute_cdp_cmd('Emulation.setEmulatedMedia', {
      'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})
  text = page.find_element(By.CSS_SELECTOR, 'figure svg text')
  assert text.value_of_css_property('fill') == ink


def test_filters_and_search(page):
  assert count(page) == '10,000 of 10,000'
  assert len(page.find_elements(By.CSS_SELECTOR, '#list li')) == 50
  page.find_element(By.ID, 'more').click()
  assert len(page.find_elements(By.CSS_SELECTOR, '#list li')) == 100
  sums = {}
  for verdict in ('student right', 'student wrong', 'student and teacher disagree'):
    choose(page, 'verdict', verdict)
    sums[verdict] = int(count(page).split()[0].replace(',', ''))
    kind = {'student right': 'right', 'student wrong': 'wrong'}.get(verdict)
    for card in page.find_elements(By.CSS_SELECTOR, '#list li')[:10]:
      facts = card.find_elements(By.CSS_SELECTOR, 'dd')
      names = [one.text for one in card.find_elements(By.CSS_SELECTOR, 'dt')]
      student, teacher = facts[names.index('student')], facts[names.index('teacher')]
      if kind:
        assert student.get_attribute('class') == kind
      else:
        assert student.text != teacher.text
  assert sums['student right'] + sums['student wrong'] == 10_000
  assert 0 < sums['student and teacher disagree'] < 10_000
  choose(page, 'verdict', 'all')
  type_text(page, 'PARCEL 1234')
  assert count(page) == '1 of 10,000'
  card = page.find_element(By.CSS_SELECTOR, '#list li')
  assert card.find_element(By.CSS_SELECTOR, '.input').text == 'Parcel 1234 <b>of</b> toy & sons'
  assert [one.text for one in card.find_elements(By.CSS_SELECTOR, 'mark')] == [
      '1234', 'Parcel', '1234', '1234']  # In the id, the input and the rationale.
  type_text(page, 'no such parcel')
  assert count(page) == '0 of 10,000'
  assert not page.find_element(By.ID, 'more').is_displayed()


def test_another_student_has_other_answers(page):
  choose(page, 'verdict', 'student right')
  counts = []
  for i in range(3):
    Select(page.find_element(By.ID, 'run')).select_by_index(i)
    counts.append(count(page))
  assert len(set(counts)) == 3


def test_ten_thousand_examples_are_filtered_at_once(page):
  type_text(page, '7')
  milliseconds = page.execute_script(
      'const times = [];'
      'for (const text of ["parcel", "reason 99", "left", "sons 7", ""]) {'
      '  document.getElementById("text").value = text;'
      '  const began = performance.now(); filter(); times.push(performance.now() - began); }'
      'return times;')
  assert max(milliseconds) < 200, milliseconds
  began = time.monotonic()
  choose(page, 'verdict', 'student wrong')
  assert time.monotonic() - began < 2
